"""/v1/fine_tuning/jobs: OpenAI's fine-tuning contract."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from tunewright.chassis.errors import InvalidSpec, NotFound, TunewrightError, Violation
from tunewright.gateway.fine_tuning.jobs import FineTuning, renamed
from tunewright.gateway.fine_tuning.objects import event_object, sequence_of
from tunewright.gateway.fine_tuning.request import CreateJob
from tunewright.gateway.http import runs
from tunewright.gateway.http.auth import TrainKey
from tunewright.gateway.http.files import after_cursor, page
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import KeyRecord

_METADATA = re.compile(r"metadata\[(.{1,64})\]")
_FILTER = [{"name": "metadata", "in": "query", "required": False, "style": "deepObject", "explode": True, "schema": {
    "type": "object", "additionalProperties": {"type": "string"},
}}]  # fmt: skip

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("")
async def create_job(request: Request, body: CreateJob, key: TrainKey) -> dict[str, Any]:
    """Check files and settings, and start a job."""
    return await run_in_threadpool(_create, state_of(request), body, key)


@router.get("", openapi_extra={"parameters": _FILTER})
async def list_jobs(request: Request, key: TrainKey, limit: Limit = 20, after: str | None = None) -> dict[str, Any]:
    """List the project's jobs, newest first; `metadata[name]=value` chooses, `metadata=null` those without any."""
    pairs = {}
    for name, value in request.query_params.multi_items():
        if found := _METADATA.fullmatch(name):
            pairs[found[1]] = value
    metadata = None if request.query_params.get("metadata") == "null" and not pairs else pairs
    jobs = jobs_of(state_of(request))
    return page(await run_in_threadpool(jobs.newest, key.project, limit + 1, after, metadata), limit)


@router.get("/{job_id}")
async def retrieve_job(request: Request, job_id: str, key: TrainKey) -> dict[str, Any]:
    """Return a job."""
    return await run_in_threadpool(jobs_of(state_of(request)).get, key.project, job_id)


@router.post("/{job_id}/cancel")
async def cancel_job(request: Request, job_id: str, key: TrainKey) -> dict[str, Any]:
    """Cancel a job; what it was given stays."""
    return await run_in_threadpool(_cancel, state_of(request), key.project, job_id)


@router.post("/{job_id}/pause")
async def pause_job(request: Request, job_id: str, key: TrainKey) -> dict[str, Any]:
    """Pause a job: it saves a checkpoint and lets go of the GPU."""
    return await run_in_threadpool(_pause, state_of(request), key.project, job_id)


@router.post("/{job_id}/resume")
async def resume_job(request: Request, job_id: str, key: TrainKey) -> dict[str, Any]:
    """Let a paused job go on."""
    return await run_in_threadpool(_resume, state_of(request), key.project, job_id)


@router.get("/{job_id}/events")
async def list_events(
    request: Request, job_id: str, key: TrainKey, limit: Limit = 20, after: str | None = None
) -> dict[str, Any]:
    """List the events of a job, newest first."""
    return page(await run_in_threadpool(_events, state_of(request), key.project, job_id, limit + 1, after), limit)


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(
    request: Request, job_id: str, key: TrainKey, limit: Limit = 10, after: str | None = None
) -> dict[str, Any]:
    """List the checkpoints that are kept of a job, newest first; those of one that succeeded may be used in chat."""
    found = await run_in_threadpool(state_of(request).checkpoints.of_job, key.project, job_id)
    return page(after_cursor(found, after, "checkpoint"), limit)


def jobs_of(state: State) -> FineTuning:
    """Return the jobs of all projects."""
    return state.fine_tuning


def _create(state: State, body: CreateJob, key: KeyRecord) -> dict[str, Any]:
    jobs = jobs_of(state)
    job_id, recipe, record = jobs.prepare(body, key)
    try:
        runs.check(state, recipe, key)
    except InvalidSpec as error:
        raise renamed(error) from error
    state.jobs.create(job_id, **record)
    try:
        runs.start(state, record["run_id"], recipe, key)
    except TunewrightError:
        state.jobs.remove(job_id)
        raise
    return jobs.get(key.project, job_id)


def _cancel(state: State, project: str, job_id: str) -> dict[str, Any]:
    row = state.jobs.get(project, job_id)
    runs.cancel(state, row.run_id)
    state.jobs.cancelled(job_id)
    return jobs_of(state).get(project, job_id)


def _pause(state: State, project: str, job_id: str) -> dict[str, Any]:
    runs.pause(state, state.jobs.get(project, job_id).run_id)
    return jobs_of(state).get(project, job_id)


def _resume(state: State, project: str, job_id: str) -> dict[str, Any]:
    runs.resume(state, state.jobs.get(project, job_id).run_id)
    return jobs_of(state).get(project, job_id)


def _events(state: State, project: str, job_id: str, limit: int, after: str | None) -> list[dict[str, Any]]:
    row = state.jobs.get(project, job_id)
    before = None if after is None else sequence_of(job_id, after)
    if after is not None and before is None:
        raise NotFound(f"No such event: {after}", violations=[Violation("after", "unknown id")])
    return [event_object(row, event) for event in state.views.newest_events(row.run_id, limit, before)]
