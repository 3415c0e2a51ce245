"""/v1/runs: start a run from a recipe, look at it, follow its events, pause and resume it, cancel it."""

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts.transfer import exists
from tunewright.chassis.errors import InvalidSpec, TunewrightError, Violation
from tunewright.gateway import stages
from tunewright.gateway.http.auth import require_key
from tunewright.gateway.http.files import page
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.journal import RunState
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.pipeline import stage_names
from tunewright.gateway.recipe import Recipe, parse

_POLL_SECONDS = 0.25
_KEEP_ALIVE_SECONDS = 15.0

router = APIRouter(prefix="/v1/runs", tags=["runs"])
Key = Annotated[KeyRecord, Depends(require_key)]


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
    key: Key,
    idempotency_key: Annotated[str | None, Header(max_length=256)] = None,
) -> Response:
    """Check a recipe with every room and start its run; the same Idempotency-Key starts one run only."""
    state = state_of(request)
    recipe = parse(body.recipe)
    await run_in_threadpool(_check, state, recipe)
    if body.validate_only:
        return JSONResponse({"object": "recipe", "recipe": recipe.to_document()})
    run_id = _run_id(key, idempotency_key)
    created = await run_in_threadpool(_start, state, run_id, recipe, key)
    return JSONResponse(await run_in_threadpool(state.views.get, run_id), 201 if created else 200)


@router.get("")
async def list_runs(
    request: Request, _key: Key, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> dict[str, Any]:
    """List the runs, newest first."""
    return page(await run_in_threadpool(state_of(request).views.newest, limit + 1, after), limit)


@router.get("/{run_id}")
async def retrieve_run(request: Request, run_id: str, _key: Key) -> dict[str, Any]:
    """Return a run: its state, its stages with their jobs and artifacts, and why it failed if it did."""
    return await run_in_threadpool(state_of(request).views.get, run_id)


@router.post("/{run_id}/cancel")
async def cancel_run(request: Request, run_id: str, _key: Key) -> dict[str, Any]:
    """Cancel a run: its job is stopped, its deployments are taken down, what it finished stays."""
    return await run_in_threadpool(_cancel, state_of(request), run_id)


@router.post("/{run_id}/pause")
async def pause_run(request: Request, run_id: str, _key: Key) -> dict[str, Any]:
    """Pause a run: its job saves a checkpoint and lets go of the GPU; what answers goes on answering."""
    return await run_in_threadpool(_pause, state_of(request), run_id)


@router.post("/{run_id}/resume")
async def resume_run(request: Request, run_id: str, _key: Key) -> dict[str, Any]:
    """Let a paused run go on, from its checkpoint."""
    return await run_in_threadpool(_resume, state_of(request), run_id)


@router.get("/{run_id}/events", response_class=StreamingResponse)
async def run_events(
    request: Request,
    run_id: str,
    _key: Key,
    after: Annotated[int, Query(ge=0)] = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Replay the events after a sequence number, then follow them live until the run has ended (server-sent events)."""
    state = state_of(request)
    await run_in_threadpool(state.views.get, run_id)
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


def _check(state: State, recipe: Recipe) -> None:
    missing = [
        Violation(place, f"there is no file file-{ref.id}")
        for place, ref in recipe.upload_places()
        if not exists(state.store, ref)
    ]
    if missing:
        text = "; ".join(f"{v.field}: {v.description}" for v in missing)
        raise InvalidSpec(f"the recipe is not valid: {text}", violations=missing)
    if recipe.base_ref is not None and not exists(state.store, recipe.base_ref):
        raise InvalidSpec(
            f"the recipe is not valid: base_model: the object store holds no artifact {recipe.base_ref}",
            violations=[Violation("base_model", f"the object store holds no artifact {recipe.base_ref}")],
        )
    stages.validate(state.rooms, recipe)


def _run_id(key: KeyRecord, idempotency_key: str | None) -> str:
    if idempotency_key is None:
        return f"run-{uuid.uuid4().hex[:24]}"
    return f"run-{hashlib.sha256(f'{key.id}/{idempotency_key}'.encode()).hexdigest()[:24]}"


def _start(state: State, run_id: str, recipe: Recipe, key: KeyRecord) -> bool:
    created = state.journal.create(
        run_id,
        name=recipe.name,
        owner=key.id,
        recipe=recipe.to_document(),
        stages=stage_names(recipe),
        limit=state.settings.max_unfinished_runs,
    )
    if created:
        state.runs.start(run_id)
    return created


def _pause(state: State, run_id: str) -> dict[str, Any]:
    state.journal.request_pause(run_id)
    _at_once(state, run_id, "pausing", state.runner.pause_jobs)
    return state.views.get(run_id)


def _resume(state: State, run_id: str) -> dict[str, Any]:
    state.journal.resume(run_id)
    return state.views.get(run_id)


def _cancel(state: State, run_id: str) -> dict[str, Any]:
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
