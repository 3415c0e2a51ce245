"""/v1/files: training files, kept as upload artifacts. The id is `file-` and the artifact's SHA-256."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts import ArtifactRef, FileEntry, Kind, Manifest, ObjectNotFound, Store, seal
from tunewright.artifacts.layout import MANIFEST, artifact_prefix
from tunewright.artifacts.transfer import commit, delete_folder, load_manifest
from tunewright.chassis.errors import Conflict, DiskFull, InvalidData, InvalidSpec, NotFound, Violation
from tunewright.gateway import metrics
from tunewright.gateway.http.auth import require_key
from tunewright.gateway.http.content import content_response
from tunewright.gateway.http.errors import TooLarge
from tunewright.gateway.http.multipart import Form, read_form
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.recipe import FILE_PREFIX, file_ref

PURPOSE = "fine-tune"
_FORM_BYTES = 1 << 16
"""What a form may hold beside its file."""
_DRAIN_SECONDS = 10.0
_DRAIN_BYTES = 256 << 20

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("", openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
    "type": "object", "required": ["file", "purpose"],
    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"type": "string", "enum": [PURPOSE]}},
}}}}})  # fmt: skip
async def create_file(request: Request, _key: Annotated[KeyRecord, Depends(require_key)]) -> dict[str, Any]:
    """Take a file: streamed to disk, then to the store. The same bytes under the same name are the same file."""
    state = state_of(request)
    limit = state.settings.max_upload_bytes
    uploads = state.settings.work_dir / "uploads"
    await run_in_threadpool(uploads.mkdir, parents=True, exist_ok=True)
    folder = Path(await run_in_threadpool(tempfile.mkdtemp, dir=uploads))
    try:
        _check_declared(request, limit, uploads)
        form = await read_form(request.stream(), request.headers.get("content-type", ""), folder, max_bytes=limit)
        _check_form(form)
        ref = await run_in_threadpool(_commit, state.store, folder)
        metrics.UPLOADED.inc(form.size_bytes)
        return await run_in_threadpool(_file_object, state.store, ref)
    except TooLarge:
        await _drain(request.stream())
        raise
    finally:
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)


@router.get("")
async def list_files(
    request: Request,
    _key: Annotated[KeyRecord, Depends(require_key)],
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    purpose: str | None = None,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
) -> dict[str, Any]:
    """List the files, newest first."""
    found = await run_in_threadpool(_all_files, state_of(request))
    found.sort(key=lambda item: (item["created_at"], item["id"]), reverse=order == "desc")
    if purpose is not None:
        found = [item for item in found if item["purpose"] == purpose]
    if after is not None:
        ids = [item["id"] for item in found]
        if after not in ids:
            raise NotFound(f"No such File object: {after}", violations=[Violation("after", "unknown id")])
        found = found[ids.index(after) + 1 :]
    return page(found, limit)


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
async def retrieve_file(
    request: Request, file_id: str, _key: Annotated[KeyRecord, Depends(require_key)]
) -> dict[str, Any]:
    """Return one file's description."""
    return await run_in_threadpool(_file_object, state_of(request).store, _known(file_id))


@router.get("/{file_id}/content")
async def file_content(request: Request, file_id: str, _key: Annotated[KeyRecord, Depends(require_key)]) -> Response:
    """Return a file's bytes as they were sent."""
    state = state_of(request)
    ref = _known(file_id)
    manifest = await run_in_threadpool(_manifest, state.store, ref)
    return await content_response(state, ref, manifest.files[0], download=True)


@router.delete("/{file_id}")
async def delete_file(request: Request, file_id: str, _key: Annotated[KeyRecord, Depends(require_key)]) -> JSONResponse:
    """Delete a file that no unfinished run reads."""
    state = state_of(request)
    ref = _known(file_id)
    await run_in_threadpool(_delete, state, ref, file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


def _check_declared(request: Request, limit: int, folder: Path) -> None:
    declared = request.headers.get("content-length", "")
    if not declared.isdigit():
        return
    if int(declared) > limit + _FORM_BYTES:
        raise TooLarge(f"The file is larger than {limit} bytes.", violations=[Violation("file", "too large")])
    if int(declared) > shutil.disk_usage(folder).free:
        raise DiskFull(f"no space left for {declared} bytes in the gateway's work directory")


def _check_form(form: Form) -> None:
    purpose = form.fields.get("purpose")
    if purpose != PURPOSE:
        raise InvalidSpec(
            f"purpose: {PURPOSE!r} is expected, found {purpose!r}", violations=[Violation("purpose", "not supported")]
        )
    if form.filename is None:
        raise InvalidSpec("file: missing", violations=[Violation("file", "missing")])
    if form.size_bytes == 0:
        raise InvalidData(f"{form.filename} is empty", violations=[Violation("file", "empty")])


def _commit(store: Store, folder: Path) -> ArtifactRef:
    draft = Manifest(
        kind=Kind.UPLOAD, created_by="gateway", spec={"purpose": PURPOSE}, metrics={"created_at": int(time.time())}
    )
    return commit(store, seal(draft, folder, {}), folder)


def _known(file_id: str) -> ArtifactRef:
    try:
        return file_ref(file_id)
    except InvalidSpec as error:
        raise _no_such_file(file_id) from error


def _no_such_file(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id}", violations=[Violation("id", "unknown file")])


def _manifest(store: Store, ref: ArtifactRef) -> Manifest:
    try:
        return load_manifest(store, ref)
    except ObjectNotFound as error:
        raise _no_such_file(f"{FILE_PREFIX}{ref.id}") from error


def _file_object(store: Store, ref: ArtifactRef) -> dict[str, Any]:
    return _described(ref.id, _manifest(store, ref))


def _described(identifier: str, manifest: Manifest) -> dict[str, Any]:
    entry: FileEntry = manifest.files[0]
    return {
        "id": f"{FILE_PREFIX}{identifier}",
        "object": "file",
        "bytes": entry.size_bytes,
        "created_at": int(manifest.metrics.get("created_at", 0)),
        "filename": entry.path,
        "purpose": str(manifest.spec.get("purpose", PURPOSE)),
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }


def _all_files(state: State) -> list[dict[str, Any]]:
    keys = [info.key for info in state.store.list(f"{Kind.UPLOAD.value}/")]
    ids = [key.split("/")[1] for key in keys if key.endswith(f"/{MANIFEST}")]
    for identifier in ids:
        if identifier not in state.uploads:
            state.uploads[identifier] = load_manifest(state.store, ArtifactRef(Kind.UPLOAD, identifier))
    return [_described(identifier, state.uploads[identifier]) for identifier in ids]


def _delete(state: State, ref: ArtifactRef, file_id: str) -> None:
    _manifest(state.store, ref)
    for run_id in state.journal.unfinished():
        if any(item.get("file") == file_id for item in state.journal.recipe(run_id)["data"]):
            raise Conflict(f"run {run_id} reads {file_id}", remedy="Wait until the run has ended, or cancel it.")
    delete_folder(state.store, artifact_prefix(ref))
    state.uploads.pop(ref.id, None)


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
