"""/v1/uploads: a file in parts. The parts wait in the store until the file is whole, so any replica takes any part."""

import hashlib
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts import file_sha256
from tunewright.artifacts.layout import part_key
from tunewright.chassis.errors import InvalidSpec, TunewrightError, Violation
from tunewright.gateway import metrics
from tunewright.gateway.filing import PURPOSES
from tunewright.gateway.http.auth import TrainKey
from tunewright.gateway.http.errors import TooLarge
from tunewright.gateway.http.files import check_storage, checked_purpose, expiry, filing, scratch, take_form
from tunewright.gateway.http.multipart import safe_name
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.upload_records import new_part_id

_PART_BYTES = 64 << 20
_PART_FORM = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["data"], "properties": {"data": {"type": "string", "format": "binary"}},
}}}}}  # fmt: skip

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


class ExpiresAfter(BaseModel):
    """When the file goes away."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(strict=True)]


class CreateUpload(BaseModel):
    """What announces a file."""

    model_config = ConfigDict(extra="forbid")

    bytes: Annotated[int, Field(strict=True, ge=1)]
    """Size of the whole file."""
    filename: Annotated[str, Field(min_length=1, max_length=1024)]
    mime_type: Annotated[str, Field(min_length=1, max_length=256)]
    purpose: Annotated[str, Field(json_schema_extra={"enum": list(PURPOSES)})]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(BaseModel):
    """What makes the file whole."""

    model_config = ConfigDict(extra="forbid")

    part_ids: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    """In order."""
    md5: str | None = None
    """Of the whole file, hexadecimal; checked if given."""


@router.post("")
async def create_upload(request: Request, body: CreateUpload, key: TrainKey) -> dict[str, Any]:
    """Announce a file that will come in parts of at most 64 MiB, within an hour."""
    return await run_in_threadpool(_create, state_of(request), body, key)


@router.post("/{upload_id}/parts", openapi_extra=_PART_FORM)
async def create_part(request: Request, upload_id: str, key: TrainKey) -> dict[str, Any]:
    """Take one part; parts may come at once, and in any order."""
    state = state_of(request)
    await run_in_threadpool(state.parts.pending, key.project, upload_id)
    folder = await run_in_threadpool(scratch, state)
    try:
        form = await take_form(request, folder, min(_PART_BYTES, state.settings.max_upload_bytes), "data")
        if form.filename is None or form.size_bytes == 0:
            raise _wrong("data", "missing or empty")
        metrics.UPLOADED.inc(form.size_bytes)
        return await run_in_threadpool(_keep_part, state, key.project, upload_id, folder / form.filename)
    finally:
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)


@router.post("/{upload_id}/complete")
async def complete_upload(request: Request, upload_id: str, body: CompleteUpload, key: TrainKey) -> dict[str, Any]:
    """Put the parts together, in the order named; the answer holds the file."""
    state = state_of(request)
    folder = await run_in_threadpool(scratch, state)
    try:
        return await run_in_threadpool(_complete, state, upload_id, body, key, folder)
    finally:
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)


@router.post("/{upload_id}/cancel")
async def cancel_upload(request: Request, upload_id: str, key: TrainKey) -> dict[str, Any]:
    """Give up a file; its parts are thrown away."""
    return await run_in_threadpool(_cancel, state_of(request), upload_id, key.project)


def _create(state: State, body: CreateUpload, key: KeyRecord) -> dict[str, Any]:
    for upload_id in state.parts.overdue():
        _forget_parts(state, upload_id)
    limit = state.settings.max_upload_bytes
    if body.bytes > limit:
        raise TooLarge(f"The file is larger than {limit} bytes.", violations=[Violation("bytes", "too large")])
    check_storage(state, key, body.bytes)
    expires = body.expires_after
    upload_id = state.parts.create(
        key,
        filename=body.filename,
        bytes=body.bytes,
        purpose=checked_purpose(body.purpose),
        mime_type=body.mime_type,
        file_expires_after=None if expires is None else expiry(expires.anchor, expires.seconds),
    )
    return _upload_object(state.parts.get(key.project, upload_id), None)


def _keep_part(state: State, project: str, upload_id: str, path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    state.parts.check_room(project, upload_id, size)
    part_id, sha256 = new_part_id(), file_sha256(path)
    where = part_key(upload_id, part_id)
    state.store.put_file(path, where, sha256=sha256)
    try:
        created = state.parts.add_part(project, upload_id, part_id, size_bytes=size, sha256=sha256)
    except TunewrightError:  # another part came first, or the upload ended
        state.store.delete(where)
        raise
    return {"id": part_id, "object": "upload.part", "created_at": int(created), "upload_id": upload_id}


def _complete(state: State, upload_id: str, body: CompleteUpload, key: KeyRecord, folder: Path) -> dict[str, Any]:
    upload = state.parts.pending(key.project, upload_id)
    parts = state.parts.parts(upload_id)
    for place, part_id in enumerate(body.part_ids):
        if part_id not in parts:
            raise _wrong(f"part_ids[{place}]", f"the upload has no part {part_id!r:.80}")
    size = sum(parts[part_id].bytes for part_id in body.part_ids)
    if size != upload.bytes:
        raise _wrong("part_ids", f"the parts have {size} bytes together, the upload announced {upload.bytes}")
    content = folder / "content"
    content.mkdir()
    whole = content / safe_name(upload.filename)
    digest = hashlib.md5(usedforsecurity=False)
    with whole.open("xb") as file:
        for part_id in body.part_ids:
            part, path = parts[part_id], folder / "part"
            where = part_key(upload_id, part_id)
            state.store.get_file(where, path, size_bytes=part.bytes, sha256=part.sha256)
            data = path.read_bytes()
            path.unlink()
            digest.update(data)
            file.write(data)
    if body.md5 is not None and body.md5.lower() != digest.hexdigest():
        raise _wrong("md5", f"the file's MD5 is {digest.hexdigest()}, not {body.md5!r:.40}")
    made = filing(state).add(key, content, purpose=upload.purpose, expires_after=upload.file_expires_after)
    ended = state.parts.end(key.project, upload_id, "completed", made["id"])
    _forget_parts(state, upload_id)
    return _upload_object(ended, made)


def _cancel(state: State, upload_id: str, project: str) -> dict[str, Any]:
    ended = state.parts.end(project, upload_id, "cancelled")
    _forget_parts(state, upload_id)
    return _upload_object(ended, None)


def _forget_parts(state: State, upload_id: str) -> None:
    for info in list(state.store.list(part_key(upload_id))):
        state.store.delete(info.key)
    state.parts.forget_parts(upload_id)


def _wrong(field: str, description: str) -> InvalidSpec:
    return InvalidSpec(f"{field}: {description}", violations=[Violation(field, description)])


def _upload_object(row: sa.Row[Any], made: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "upload",
        "bytes": row.bytes,
        "created_at": int(row.created_at),
        "expires_at": int(row.expires_at),
        "filename": row.filename,
        "purpose": row.purpose,
        "status": row.status,
        "file": made,
    }
