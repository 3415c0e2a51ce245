"""/v1/aliases: public names, the versions behind them, and who moved the traffic when and why."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts import ArtifactRef, InvalidRef
from tunewright.chassis.errors import InvalidSpec, NotFound, Violation
from tunewright.gateway.canary import Rules
from tunewright.gateway.http.artifacts import sees
from tunewright.gateway.http.auth import AdminKey, AnyKey, TrainKey
from tunewright.gateway.http.models import check_name
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.versions import ALL_TRAFFIC, Cause, Version, VersionState

router = APIRouter(prefix="/v1/aliases", tags=["aliases"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    why: str = Field(default="", max_length=1000)
    """Kept with the change."""


class Deploy(_Body):
    """A new version of a public name."""

    artifact: str
    """models/<sha256>, or adapters/<sha256>, which is served on the base it was trained on."""
    base: str | None = None
    """The base under an adapter whose manifest names none."""
    spec: dict[str, Any] = Field(default_factory=dict)
    """The recipe's `deployment` section."""
    weight: float = Field(default=ALL_TRAFFIC, ge=0, le=ALL_TRAFFIC)
    """Percent of the traffic once it answers: 100 all, less makes it a canary, 0 only brings it up. The first version
    of a name gets all."""
    rules: dict[str, Any] = Field(default_factory=dict)
    """What a canary is judged by: canary.py."""


class Promote(_Body):
    """More traffic for a candidate."""

    version: int | None = None
    """The candidate if not given; one that served before is brought up again first."""
    weight: float = Field(default=ALL_TRAFFIC, gt=0, le=ALL_TRAFFIC)


class RollBack(_Body):
    """Less traffic for a candidate, or the version before."""

    version: int | None = None


class Undeploy(_Body):
    """The end of a public name."""


@router.get("")
async def list_aliases(request: Request, key: AnyKey) -> dict[str, Any]:
    """List the public names that have a version."""
    state = state_of(request)
    names = await run_in_threadpool(state.rollouts.versions.aliases)
    data = [await run_in_threadpool(_alias, state, name) for name in names if state.owners.of_name(name) == key.project]
    return {"object": "list", "data": data, "has_more": False}


@router.get("/{alias}")
async def retrieve_alias(request: Request, alias: str, key: AnyKey) -> dict[str, Any]:
    """Return a public name with its versions and what they showed lately."""
    await run_in_threadpool(check_project, state_of(request), alias, key)
    return await run_in_threadpool(_alias, state_of(request), alias)


@router.get("/{alias}/changes")
async def list_changes(
    request: Request, alias: str, key: AnyKey, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """Return what was changed, by whom and why, newest first."""
    state = state_of(request)
    await run_in_threadpool(check_project, state, alias, key)
    await run_in_threadpool(state.rollouts.versions.known, alias)
    return {"object": "list", "data": await run_in_threadpool(state.rollouts.versions.changes, alias, limit)}


@router.post("/{alias}/versions", status_code=202)
async def deploy(request: Request, alias: str, body: Deploy, key: TrainKey) -> JSONResponse:
    """File a new version; it comes up in the background."""
    state = state_of(request)
    version = await run_in_threadpool(file_version, state, key, alias, body)
    return JSONResponse(await run_in_threadpool(_version, state, version), 202)


def file_version(state: State, key: KeyRecord, alias: str, body: Deploy) -> Version:
    """File a new version of a project's name. Raises TunewrightError."""
    check_project(state, alias, key)
    check_name(state, alias, key)
    artifact, base = _ref("artifact", body.artifact), _ref("base", body.base) if body.base else None
    for ref in (artifact, base):
        if ref is not None and not sees(state, key.project, ref):
            raise NotFound(f"no artifact {ref}")
    return state.rollouts.deploy(
        alias,
        artifact,
        base=base,
        spec=body.spec,
        weight=body.weight,
        rules=body.rules,
        cause=cause_of(key, body),
        key=key,
    )


@router.post("/{alias}/promote")
async def promote(request: Request, alias: str, body: Promote, key: TrainKey) -> dict[str, Any]:
    """Give a candidate all traffic, or another share."""
    state = state_of(request)
    await run_in_threadpool(check_project, state, alias, key)
    act = state.rollouts.promote
    found = await run_in_threadpool(act, alias, body.version, body.weight, cause_of(key, body))
    return await run_in_threadpool(_version, state, found)


@router.post("/{alias}/rollback")
async def roll_back(request: Request, alias: str, body: RollBack, key: TrainKey) -> dict[str, Any]:
    """Take the candidate's traffic away, or bring back the version before."""
    state = state_of(request)
    await run_in_threadpool(check_project, state, alias, key)
    found = await run_in_threadpool(state.rollouts.roll_back, alias, body.version, cause_of(key, body))
    return await run_in_threadpool(_version, state, found)


@router.delete("/{alias}")
async def undeploy(
    request: Request, alias: str, key: AdminKey, why: Annotated[str, Query(max_length=1000)] = ""
) -> dict[str, Any]:
    """Take the name away; running answers are finished."""
    state = state_of(request)
    await run_in_threadpool(check_project, state, alias, key)
    await run_in_threadpool(state.rollouts.undeploy, alias, cause_of(key, Undeploy(why=why)))
    return {"id": alias, "object": "alias", "deleted": True}


def check_project(state: State, alias: str, key: KeyRecord) -> None:
    """Let a project see its own names only. Raises NotFound."""
    if state.owners.of_name(alias) not in {None, key.project}:
        raise NotFound(f"no model is called {alias!r}", remedy="GET /v1/aliases lists the names there are.")


def cause_of(key: KeyRecord, body: _Body) -> Cause:
    """Return who asks for a change, and why."""
    return Cause(who=f"key {key.name}", why=body.why)


def _ref(field: str, text: str) -> ArtifactRef:
    try:
        return ArtifactRef.parse(text)
    except InvalidRef as error:
        raise InvalidSpec(f"{field}: {error}", violations=[Violation(field, str(error))]) from error


def _alias(state: State, alias: str) -> dict[str, Any]:
    versions = state.rollouts.versions.known(alias)
    serving = next((version.number for version in versions if version.state is VersionState.SERVING), None)
    return {
        "id": alias,
        "object": "alias",
        "serving": serving,
        "versions": [_version(state, version) for version in versions],
    }


def _version(state: State, version: Version) -> dict[str, Any]:
    rules = Rules.of(version.rules)
    seen = state.rollouts.traffic.figures((version.alias, version.number), rules.window_seconds)
    return {
        "object": "alias.version",
        "alias": version.alias,
        "version": version.number,
        "state": version.state.value,
        "weight": version.weight,
        "deployment": version.deployment,
        "model": version.model,
        "adapter": version.adapter,
        "spec": dict(version.spec),
        "rules": rules.model_dump(),
        "detail": version.detail,
        "judged": state.rollouts.judged(version),
        "seen": seen.to_dict(),
        "created_at": version.created_at,
        "changed_at": version.changed_at,
    }
