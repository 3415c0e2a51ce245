"""/v1/artifacts: manifests, files and lineage of what the runs made."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts import ArtifactRef, InvalidRef, Manifest
from tunewright.artifacts.transfer import lineage, load_manifest
from tunewright.chassis.errors import NotFound
from tunewright.gateway.http.auth import require_key
from tunewright.gateway.http.content import content_response
from tunewright.gateway.http.state import state_of
from tunewright.gateway.keys import KeyRecord

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])
Key = Annotated[KeyRecord, Depends(require_key)]


@router.get("/{kind}/{artifact_id}")
async def get_manifest(request: Request, kind: str, artifact_id: str, _key: Key) -> dict[str, Any]:
    """Return the manifest: everything that made the artifact, and every file it holds."""
    return _document(await run_in_threadpool(load_manifest, state_of(request).store, _ref(kind, artifact_id)))


@router.get("/{kind}/{artifact_id}/lineage")
async def get_lineage(request: Request, kind: str, artifact_id: str, _key: Key) -> dict[str, Any]:
    """Return the manifests of the artifact and of all it was made from, each before its parents."""
    manifests = await run_in_threadpool(lineage, state_of(request).store, _ref(kind, artifact_id))
    return {"object": "list", "data": [_document(manifest) for manifest in manifests], "has_more": False}


@router.get("/{kind}/{artifact_id}/files/{path:path}")
async def get_file(request: Request, kind: str, artifact_id: str, path: str, _key: Key) -> Response:
    """Return one file of the artifact, such as report.html."""
    state = state_of(request)
    ref = _ref(kind, artifact_id)
    manifest = await run_in_threadpool(load_manifest, state.store, ref)
    for entry in manifest.files:
        if entry.path == path:
            return await content_response(state, ref, entry)
    names = ", ".join(entry.path for entry in manifest.files[:20])
    raise NotFound(f"{ref.short} holds no file {path!r}; it holds {names}")


def _ref(kind: str, artifact_id: str) -> ArtifactRef:
    try:
        return ArtifactRef.parse(f"{kind}/{artifact_id}")
    except InvalidRef as error:
        raise NotFound(str(error)) from error


def _document(manifest: Manifest) -> dict[str, Any]:
    ref = manifest.ref
    return {"object": "artifact", "ref": str(ref), "id": ref.id, **manifest.model_dump(mode="json")}
