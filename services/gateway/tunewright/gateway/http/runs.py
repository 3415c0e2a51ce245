"""/v1/runs: start a run from a recipe, look at it, follow its events, pause and resume it, cancel it."""

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from tunewright.chassis.errors import InvalidSpec, TunewrightError, Violation
from tunewright.gateway import stages
from tunewright.gateway.http.artifacts import sees
from tunewright.gateway.http.auth import TrainKey
from tunewright.gateway.http.files import filing, page
from tunewright.gateway.http.models import check_name
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.journal import RunState
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.owners import RUN
from tunewright.gateway.pipeline import stage_names
from tunewright.gateway.recipe import Recipe, parse

_POLL_SECONDS = 0.25
_KEEP_ALIVE_SECONDS = 15.0

router = APIRouter(prefix="/v1/runs", tags=["runs"])


class CreateRun(BaseModel):
    """What starts a run."""

    model_config = ConfigDict(extra="forbid")

    recipe: dict[str, Any] | str
    """The recipe as an object, or as YAML text."""
    validate_only: bool = False
    """Check the recipe with every room, start nothing."""


@router.post("", status_code=201)
async def create_run(
    request: Request,
    body: CreateRun,
    key: TrainKey,
    idempotency_key: Annotated[str | None, Header(max_length=256)] = None,
) -> Response:
    """Check a recipe with every room and start its run; the same Idempotency-Key starts one run only."""
    state = state_of(request)
    recipe = parse(body.recipe)
    await run_in_threadpool(check, state, recipe, key)
    if body.validate_only:
        return JSONResponse({"object": "recipe", "recipe": recipe.to_document()})
    run_id = _run_id(key, idempotency_key)
    created = await run_in_threadpool(start, state, run_id, recipe, key)
    return JSONResponse(await run_in_threadpool(state.views.get, run_id), 201 if created else 200)


@router.get("")
async def list_runs(
    request: Request, key: TrainKey, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> dict[str, Any]:
    """List the runs, newest first."""
    return page(await run_in_threadpool(state_of(request).views.newest, limit + 1, after, key.project), limit)


@router.get("/{run_id}")
async def retrieve_run(request: Request, run_id: str, key: TrainKey) -> dict[str, Any]:
    """Return a run: its state, its stages with their jobs and artifacts, and why it failed if it did."""
    return await run_in_threadpool(state_of(request).views.of_project, run_id, key.project)


@router.post("/{run_id}/cancel")
async def cancel_run(request: Request, run_id: str, key: TrainKey) -> dict[str, Any]:
    """Cancel a run: its job is stopped, its deployments are taken down, what it finished stays."""
    state = state_of(request)
    await run_in_threadpool(state.views.of_project, run_id, key.project)
    return await run_in_threadpool(cancel, state, run_id)


@router.post("/{run_id}/pause")
async def pause_run(request: Request, run_id: str, key: TrainKey) -> dict[str, Any]:
    """Pause a run: its job saves a checkpoint and lets go of the GPU; what answers goes on answering."""
    state = state_of(request)
    await run_in_threadpool(state.views.of_project, run_id, key.project)
    return await run_in_threadpool(pause, state, run_id)


@router.post("/{run_id}/resume")
async def resume_run(request: Request, run_id: str, key: TrainKey) -> dict[str, Any]:
    """Let a paused run go on, from its checkpoint."""
    state = state_of(request)
    await run_in_threadpool(state.views.of_project, run_id, key.project)
    return await run_in_threadpool(resume, state, run_id)


@router.get("/{run_id}/events", response_class=StreamingResponse)
async def run_events(
    request: Request,
    run_id: str,
    key: TrainKey,
    after: Annotated[int, Query(ge=0)] = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Replay the events after a sequence number, then follow them live until the run has ended (server-sent events)."""
    state = state_of(request)
    await run_in_threadpool(state.views.of_project, run_id, key.project)
    if last_event_id is not None and last_event_id.isdigit():
        after = max(after, int(last_event_id))
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_follow(state, run_id, after), media_type="text/event-stream", headers=headers)


async def _follow(state: State, run_id: str, after: int) -> AsyncIterator[bytes]:
    quiet_since = time.monotonic()
    while True:
        # The state is read before the events: a run that has ended by then gets no further ones.
        ended = await run_in_threadpool(_ended, state, run_id)
        events = await run_in_threadpool(state.views.events, run_id, after)
        for event in events:
            yield _sse(event)
            after = event["sequence"]
        if (ended and not events) or state.stopping.is_set():
            return
        now = time.monotonic()
        if events:
            quiet_since = now
        elif now - quiet_since > _KEEP_ALIVE_SECONDS:
            yield b": keep-alive\n\n"
            quiet_since = now
        if not events:
            await asyncio.sleep(_POLL_SECONDS)


def _sse(event: dict[str, Any]) -> bytes:
    text = json.dumps(event, ensure_ascii=False)
    return f"id: {event['sequence']}\nevent: {event['type']}\ndata: {text}\n\n".encode()


def _ended(state: State, run_id: str) -> bool:
    return RunState(state.views.state(run_id)).terminal


def check(state: State, recipe: Recipe, key: KeyRecord) -> None:
    """Check a recipe of a key's project with every room.

    Raises:
        InvalidSpec: what is wrong with it.
        Conflict: its name is another project's.
    """
    files = filing(state)
    missing = [
        Violation(place, f"there is no file file-{ref.id}")
        for place, ref in recipe.upload_places()
        if not files.has(key.project, f"file-{ref.id}")
    ]
    if missing:
        text = "; ".join(f"{v.field}: {v.description}" for v in missing)
        raise InvalidSpec(f"the recipe is not valid: {text}", violations=missing)
    if recipe.base_ref is not None and not sees(state, key.project, recipe.base_ref):
        raise InvalidSpec(
            f"the recipe is not valid: base_model: the object store holds no artifact {recipe.base_ref}",
            violations=[Violation("base_model", f"the object store holds no artifact {recipe.base_ref}")],
        )
    check_name(state, recipe.name, key)
    stages.validate(state.rooms, recipe)


def _run_id(key: KeyRecord, idempotency_key: str | None) -> str:
    if idempotency_key is None:
        return f"run-{uuid.uuid4().hex[:24]}"
    return f"run-{hashlib.sha256(f'{key.id}/{idempotency_key}'.encode()).hexdigest()[:24]}"


def start(state: State, run_id: str, recipe: Recipe, key: KeyRecord) -> bool:
    """Start a run for the key's project; return False if it was started before with the same recipe.

    Raises:
        Conflict: an unfinished run has this name, or the id was used for another recipe.
        OutOfResources: too many runs are unfinished.
    """
    state.owners.note(RUN, run_id, key)
    created = state.journal.create(
        run_id,
        name=recipe.name,
        owner=key.id,
        project=key.project,
        recipe=recipe.to_document(),
        stages=stage_names(recipe),
        limit=state.settings.max_unfinished_runs,
    )
    if created:
        state.runs.start(run_id)
    return created


def pause(state: State, run_id: str) -> dict[str, Any]:
    """Pause a run of any project and return it. Raises Conflict."""
    state.journal.request_pause(run_id)
    _at_once(state, run_id, "pausing", state.runner.pause_jobs)
    return state.views.get(run_id)


def resume(state: State, run_id: str) -> dict[str, Any]:
    """Resume a run of any project and return it. Raises Conflict."""
    state.journal.resume(run_id)
    return state.views.get(run_id)


def cancel(state: State, run_id: str) -> dict[str, Any]:
    """Cancel a run of any project and return it. Raises Conflict."""
    state.journal.request_cancel(run_id)
    state.runs.cancel_waiting(run_id)
    _at_once(state, run_id, "cancelling", state.runner.cancel_jobs)
    return state.views.get(run_id)


def _at_once(state: State, run_id: str, what: str, ask: Callable[[str], None]) -> None:
    """Ask the rooms now; the run's own workflow asks again until they answer."""
    try:
        ask(run_id)
    except TunewrightError as error:
        state.journal.warn(run_id, f"{what}: {error.message}")
