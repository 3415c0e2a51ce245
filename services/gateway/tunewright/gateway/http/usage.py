"""/v1/usage: what the project's keys have used, by key and day."""

import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.gateway.http.auth import AdminKey
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import KeyRecord

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")

router = APIRouter(prefix="/v1/usage", tags=["usage"])


@router.get("")
async def list_usage(
    request: Request, key: AdminKey, since: Annotated[str | None, Query(description="YYYY-MM-DD, UTC")] = None
) -> dict[str, Any]:
    """List requests and tokens of the project's keys by day, since a day (today if none), and the bytes they keep."""
    since = time.strftime("%Y-%m-%d", time.gmtime()) if since is None else since
    if not _DAY.fullmatch(since):
        text = f"a day as YYYY-MM-DD is expected, found {since!r:.40}"
        raise InvalidSpec(f"since: {text}", violations=[Violation("since", text)])
    return await run_in_threadpool(_usage, state_of(request), key, since)


def _usage(state: State, key: KeyRecord, since: str) -> dict[str, Any]:
    names = {record.id: record.name for record in state.keys.all()}
    entries = [
        {"object": "usage", "name": names.get(entry["key_id"]), **entry}
        for entry in state.usage.of_project(key.project, since)
    ]
    for entry in entries:
        entry["storage_bytes"] = state.files.stored_bytes(entry["key_id"])
    return {"object": "list", "data": entries, "has_more": False}
