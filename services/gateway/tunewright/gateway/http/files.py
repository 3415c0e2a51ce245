"""/v1/files: files as OpenAI has them, streamed to disk and then to the store."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from tunewright.chassis.errors import Conflict, DiskFull, InvalidData, InvalidSpec, NotFound, Violation
from tunewright.gateway import metrics
from tunewright.gateway.filing import PURPOSES, Filing
from tunewright.gateway.http.auth import TrainKey
from tunewright.gateway.http.content import content_response
from tunewright.gateway.http.errors import StorageFull, TooLarge
from tunewright.gateway.http.multipart import Form, read_form
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.recipe import file_ref, parse

_FORM_BYTES = 1 << 16
"""What a form may hold beside its file."""
_DRAIN_SECONDS = 10.0
_DRAIN_BYTES = 256 << 20
_EXPIRES_SECONDS = (3600, 2_592_000)
"""An hour to thirty days."""
_FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {
            "type": "integer", "minimum": _EXPIRES_SECONDS[0], "maximum": _EXPIRES_SECONDS[1],
        },
    },
}}}}}  # fmt: skip

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("", openapi_extra=_FORM)
async def create_file(request: Request, key: TrainKey) -> dict[str, Any]:
    """Take a file: streamed to disk, then to the store. The same bytes under the same name are the same file."""
    state = state_of(request)
    limit = state.settings.max_upload_bytes
    folder = await run_in_threadpool(scratch, state)
    try:
        form = await take_form(request, folder, limit)
        purpose, seconds = _checked(form)
        await run_in_threadpool(check_storage, state, key, form.size_bytes)
        metrics.UPLOADED.inc(form.size_bytes)
        add = filing(state).add
        return await run_in_threadpool(add, key, folder, purpose=purpose, expires_after=seconds)
    finally:
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)


@router.get("")
async def list_files(
    request: Request,
    key: TrainKey,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    purpose: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """List the project's files, newest first."""
    found = await run_in_threadpool(_all_files, state_of(request), key.project)
    found.sort(key=lambda item: (item["created_at"], item["id"]), reverse=order == "desc")
    if purpose is not None:
        found = [item for item in found if item["purpose"] == purpose]
    return page(after_cursor(found, after, "File"), limit)


def after_cursor(found: list[dict[str, Any]], after: str | None, what: str) -> list[dict[str, Any]]:
    """Return the objects behind the one with the id `after`, all if that is None.

    Raises:
        NotFound: none has this id.
    """
    if after is None:
        return found
    ids = [item["id"] for item in found]
    if after not in ids:
        raise NotFound(f"No such {what} object: {after}", violations=[Violation("after", "unknown id")])
    return found[ids.index(after) + 1 :]


def page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Return the first `limit` objects as OpenAI's list object."""
    shown = found[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(found) > limit,
    }


@router.get("/{file_id}")
async def retrieve_file(request: Request, file_id: str, key: TrainKey) -> dict[str, Any]:
    """Return one file's description."""
    return await run_in_threadpool(filing(state_of(request)).describe, key.project, file_id)


@router.get("/{file_id}/content")
async def file_content(request: Request, file_id: str, key: TrainKey) -> Response:
    """Return a file's bytes as they were sent."""
    state = state_of(request)
    manifest = await run_in_threadpool(filing(state).manifest, key.project, file_id)
    return await content_response(state, file_ref(file_id), manifest.files[0], download=True)


@router.delete("/{file_id}")
async def delete_file(request: Request, file_id: str, key: TrainKey) -> JSONResponse:
    """Delete a file that no unfinished run reads."""
    await run_in_threadpool(_delete, state_of(request), key.project, file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def filing(state: State) -> Filing:
    """Return the files of all projects."""
    return state.filing


def scratch(state: State) -> Path:
    """Return a new folder on the gateway's disk; the caller removes it."""
    uploads = state.settings.work_dir / "uploads"
    uploads.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=uploads))


async def take_form(request: Request, folder: Path, limit: int, field: str = "file") -> Form:
    """Read a form with one file into `folder`.

    Raises:
        TooLarge: the file has more than `limit` bytes; what comes of it is read for a while and thrown away.
        InvalidSpec: a damaged form.
        DiskFull: the disk has no room for it.
    """
    try:
        _check_declared(request, limit, folder, field)
        content_type = request.headers.get("content-type", "")
        return await read_form(request.stream(), content_type, folder, max_bytes=limit, field_name=field)
    except TooLarge:
        await _drain(request.stream())
        raise


def check_storage(state: State, key: KeyRecord, size_bytes: int) -> None:
    """Refuse bytes above what the key may keep. Raises StorageFull."""
    limit = key.limits.storage_bytes
    kept = state.files.stored_bytes(key.id) + state.parts.pending_bytes(key.id)
    if limit and kept + size_bytes > limit:
        raise StorageFull(
            f"This key may keep {limit} bytes of files and of uploads under way, and {size_bytes} more do not fit."
        )


def expiry(anchor: str | None, seconds: object) -> int | None:
    """Return the seconds after which a file goes away, None if it never does.

    Raises:
        InvalidSpec: another anchor than created_at, or a time out of bounds.
    """
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise _wrong("expires_after.anchor", f"'created_at' is expected, found {anchor!r}")
    low, high = _EXPIRES_SECONDS
    try:
        value = int(str(seconds))
    except ValueError:
        value = -1
    if isinstance(seconds, bool) or not low <= value <= high:
        raise _wrong("expires_after.seconds", f"a whole number from {low} to {high} is expected, found {seconds!r:.40}")
    return value


def checked_purpose(purpose: object) -> str:
    """Return a purpose that applications may use. Raises InvalidSpec."""
    if not isinstance(purpose, str) or purpose not in PURPOSES:
        raise _wrong("purpose", f"one of {', '.join(PURPOSES)} is expected, found {purpose!r:.40}")
    return purpose


def _wrong(field: str, description: str) -> InvalidSpec:
    return InvalidSpec(f"{field}: {description}", violations=[Violation(field, description)])


def _check_declared(request: Request, limit: int, folder: Path, field: str) -> None:
    declared = request.headers.get("content-length", "")
    if not declared.isdigit():
        return
    if int(declared) > limit + _FORM_BYTES:
        raise TooLarge(f"The file is larger than {limit} bytes.", violations=[Violation(field, "too large")])
    if int(declared) > shutil.disk_usage(folder).free:
        raise DiskFull(f"no space left for {declared} bytes in the gateway's work directory")


def _checked(form: Form) -> tuple[str, int | None]:
    purpose = checked_purpose(form.fields.get("purpose"))
    if form.filename is None:
        raise InvalidSpec("file: missing", violations=[Violation("file", "missing")])
    if form.size_bytes == 0:
        raise InvalidData(f"{form.filename} is empty", violations=[Violation("file", "empty")])
    return purpose, expiry(form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]"))


def _all_files(state: State, project: str) -> list[dict[str, Any]]:
    files = filing(state)
    state.fine_tuning.settle_all(project)
    files.remove_expired()
    return files.of_project(project)


def _delete(state: State, project: str, file_id: str) -> None:
    files = filing(state)
    files.manifest(project, file_id)
    for run_id in state.journal.unfinished():
        if file_ref(file_id) in parse(state.journal.recipe(run_id)).uploads:
            raise Conflict(f"run {run_id} reads {file_id}", remedy="Wait until the run has ended, or cancel it.")
    files.remove(project, file_id)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read on for a while, so that a client which still sends gets to see the answer instead of a broken pipe."""
    seen = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in chunks:
                seen += len(chunk)
                if seen > _DRAIN_BYTES:
                    return
    except TimeoutError:
        return
