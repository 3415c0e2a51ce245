"""/v1/models and /v1/deployments: what is served, under which names, and by which engines."""

import re
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts import ArtifactRef, InvalidRef
from tunewright.chassis.errors import Conflict, InvalidSpec, NotFound, Violation
from tunewright.chassis.records import ref_from_proto, ref_to_proto
from tunewright.gateway.clients import Room
from tunewright.gateway.http.artifacts import sees
from tunewright.gateway.http.auth import AdminKey, AnyKey, TrainKey
from tunewright.gateway.http.errors import Forbidden
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import KeyRecord, Scope
from tunewright.gateway.owners import DEPLOYMENT, taken
from tunewright.gateway.recipe import NAME, spec_message
from tunewright.gateway.versions import Cause
from tunewright.gateway.visible import Visible
from tunewright.v1 import inference_pb2

router = APIRouter(tags=["models"])
_OF_A_NAME = re.compile(r"-(v[0-9]+|base|[0-9a-f]{12})$")
"""What the deployments behind a public name have after it: a version, the run's base, the run's model."""


class CreateDeployment(BaseModel):
    """What starts a deployment."""

    model_config = ConfigDict(extra="forbid")

    name: str
    """The name applications use as `model`."""
    model: str
    """Reference of the model: models/<sha256>."""
    adapter: str | None = None
    """Reference of an adapter on top: adapters/<sha256>."""
    spec: dict[str, Any] = Field(default_factory=dict)
    """The recipe's `deployment` section."""


@router.get("/v1/models")
async def list_models(request: Request, key: AnyKey) -> dict[str, Any]:
    """List the names that may be used as `model`."""
    models = await run_in_threadpool(state_of(request).models.of_project, key.project)
    shown = [model for _, model in sorted(models.items()) if model.listed]
    return {"object": "list", "data": [_model(model) for model in shown]}


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str, key: AnyKey) -> dict[str, Any]:
    """Return one model."""
    return _model(await run_in_threadpool(state_of(request).models.get, key.project, model))


@router.delete("/v1/models/{model:path}")
async def delete_model(request: Request, model: str, key: TrainKey) -> dict[str, Any]:
    """Delete a tuned model: its name is gone, and its engine stops. A base cannot be deleted.

    What is no fine-tuning job's model is a public name as under /v1/aliases, and wants an admin's key as there.
    """
    await run_in_threadpool(_delete_model, state_of(request), key, model)
    return {"id": model, "object": "model", "deleted": True}


@router.get("/v1/deployments")
async def list_deployments(request: Request, key: TrainKey) -> dict[str, Any]:
    """List all deployments, stopped and failed ones as well."""
    state = state_of(request)
    found = [
        item
        for item in await run_in_threadpool(state.rooms.deployments)
        if await run_in_threadpool(state.models.owns, key.project, item.name)
    ]
    return {"object": "list", "data": [_deployment(item) for item in found], "has_more": False}


@router.post("/v1/deployments", status_code=202)
async def create_deployment(request: Request, body: CreateDeployment, key: AdminKey) -> JSONResponse:
    """Start a deployment, or attach to the one that runs. It answers once its state is ready."""
    state = state_of(request)
    deployment = await run_in_threadpool(_deploy, state, body, key)
    state.models.forget()
    return JSONResponse(_deployment(deployment), 202)


@router.get("/v1/deployments/{name}")
async def retrieve_deployment(request: Request, name: str, key: TrainKey) -> dict[str, Any]:
    """Return one deployment; an alias stands for the deployment behind it."""
    state = state_of(request)
    return _deployment(await run_in_threadpool(state.rooms.deployment, await _behind(state, name, key.project)))


@router.delete("/v1/deployments/{name}")
async def delete_deployment(request: Request, name: str, key: AdminKey) -> dict[str, Any]:
    """Stop a deployment; with an alias, the alias goes too."""
    state = state_of(request)
    target = await _behind(state, name, key.project)
    if await run_in_threadpool(state.models.used_by_another, key.project, target):
        raise Conflict(
            f"{name!r} is in use by another project",
            remedy="It can be stopped once that has no run and no model on it.",
        )
    await run_in_threadpool(_forget_alias, state, name, key)
    deployment = await run_in_threadpool(state.rooms.undeploy, target)
    state.models.forget()
    return {**_deployment(deployment), "deleted": True}


def _forget_alias(state: State, name: str, key: KeyRecord) -> None:
    if state.owners.of_name(name) not in {None, key.project}:
        return  # a deployment of ours that is called as another project's name
    versions = state.rollouts.versions
    if versions.of(name):
        versions.close(name, Cause(who=f"key {key.name}", why="its deployment was deleted"))
    state.aliases.remove(name)


async def _behind(state: State, name: str, project: str) -> str:
    """Return the deployment that a project knows under a name. Raises NotFound."""
    alias = (await run_in_threadpool(state.aliases.all)).get(name)
    target = name if alias is None else alias.deployment
    if not await run_in_threadpool(state.models.owns, project, target):
        raise NotFound(f"no deployment has the name {name!r}")
    return target


def _delete_model(state: State, key: KeyRecord, name: str) -> None:
    project = key.project
    found = state.models.get(project, name)
    job = state.jobs.of_model(project, name)
    alias = found.served.alias
    if alias is None:
        raise Forbidden(
            f"The model {name!r} cannot be deleted: only a tuned model can.", remedy="DELETE its deployment."
        )
    if job is None and not key.may(Scope.ADMIN):
        raise Forbidden(
            "You have insufficient permissions for this operation. Missing scope: admin.",
            remedy="Use a key made with `--scope admin`.",
        )
    if job is not None:
        state.jobs.model_deleted(job.id)
        state.checkpoints.stop(job.id)
    _forget_alias(state, alias.name, key)
    try:
        state.rooms.undeploy(alias.deployment)
    except (NotFound, Conflict):
        pass  # stopped already
    finally:
        state.models.forget()


def check_name(state: State, name: str, key: KeyRecord) -> None:
    """Refuse a name that is another project's, or under which something of another project is deployed.

    Raises:
        Conflict: it is taken.
        Unavailable: inference is down.
    """
    stem = _OF_A_NAME.sub("", name)
    if any(state.owners.of_name(known) not in {None, key.project} for known in (name, stem)):
        raise taken(name)
    standing = any(item.name == name for item in state.rooms.deployments())
    if standing and not state.models.owns(key.project, name):
        raise taken(name)


def _deploy(state: State, body: CreateDeployment, key: KeyRecord) -> inference_pb2.Deployment:
    if not NAME.fullmatch(body.name):
        raise InvalidSpec(f"name: {body.name!r} is no name", violations=[Violation("name", "lower case is expected")])
    if body.name in state.aliases.all():
        raise Conflict(f"{body.name!r} is the public name of a promoted model", remedy="Choose another name.")
    model, adapter = _ref("model", body.model), _ref("adapter", body.adapter) if body.adapter else None
    for field, ref in (("model", model), ("adapter", adapter)):
        if ref is not None and not sees(state, key.project, ref):
            raise NotFound(
                f"the object store holds no artifact {ref}", violations=[Violation(field, "unknown artifact")]
            )
    check_name(state, body.name, key)
    state.owners.note(DEPLOYMENT, body.name, key)
    request = inference_pb2.DeployRequest(
        name=body.name,
        model=ref_to_proto(model),
        adapter=ref_to_proto(adapter) if adapter else None,
        spec=spec_message("spec", inference_pb2.DeploymentSpec, body.spec),
    )
    return state.rooms.call(Room.INFERENCE, state.rooms.inference.Deploy, request).deployment


def _ref(field: str, text: str) -> ArtifactRef:
    try:
        return ArtifactRef.parse(text)
    except InvalidRef as error:
        raise InvalidSpec(f"{field}: {error}", violations=[Violation(field, str(error))]) from error


def _model(model: Visible) -> dict[str, Any]:
    served = model.served
    created = served.alias.created_at if served.alias else served.deployment.create_time.ToNanoseconds() / 1e9
    return {
        "id": model.name,
        "object": "model",
        "created": int(created),
        "owned_by": "tunewright",
        "tunewright": {"state": served.state, "deployment": served.deployment.name, "artifact": served.artifact},
        **({} if model.root is None else {"root": model.root}),
    }


def _deployment(item: inference_pb2.Deployment) -> dict[str, Any]:
    fields = MessageToDict(item, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    # The engine's address is for services: applications come through this door.
    fields.pop("endpoint", None)
    state = inference_pb2.DeploymentState.Name(item.state).removeprefix("DEPLOYMENT_STATE_").lower()
    adapter = str(ref_from_proto(item.adapter)) if item.HasField("adapter") else None
    return {
        **fields,
        "id": item.name,
        "object": "deployment",
        "state": state,
        "model": str(ref_from_proto(item.model)),
        "adapter": adapter,
    }
