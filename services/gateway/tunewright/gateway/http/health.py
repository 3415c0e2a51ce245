"""/healthz: this process can serve. /readyz: every room behind it can as well, or which one cannot."""

from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts import StoreUnavailable
from tunewright.artifacts.layout import job_prefix
from tunewright.chassis.errors import TunewrightError
from tunewright.gateway.clients import Room
from tunewright.gateway.http.state import State, state_of

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz(request: Request) -> JSONResponse:
    """Answer 200 while this process serves: for liveness, and for load balancers."""
    state = state_of(request)
    database = await run_in_threadpool(_database, state)
    ok = database == "ok" and not state.stopping.is_set()
    return JSONResponse({"status": "ok" if ok else "unavailable", "database": database}, 200 if ok else 503)


@router.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """Answer 200 once the database, the store and every room are up; else 503, and what is wrong with each."""
    state = state_of(request)
    rooms = await run_in_threadpool(_rooms, state)
    parts = {
        "database": await run_in_threadpool(_database, state),
        "store": await run_in_threadpool(_store, state),
        **rooms,
    }
    ready = all(condition == "ok" for condition in parts.values()) and not state.stopping.is_set()
    return JSONResponse({"status": "ready" if ready else "not ready", "parts": parts}, 200 if ready else 503)


def _rooms(state: State) -> dict[str, str]:
    with ThreadPoolExecutor(len(Room)) as pool:
        return dict(zip(Room, pool.map(state.rooms.condition, Room), strict=True))


def _database(state: State) -> str:
    try:
        state.views.counts()
    except TunewrightError as error:
        return error.message
    return "ok"


def _store(state: State) -> str:
    try:
        state.store.stat(job_prefix("gateway"))
    except StoreUnavailable as error:
        return str(error)
    return "ok"
