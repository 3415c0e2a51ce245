"""/v1/artifacts: manifests, files and lineage of what the runs made."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from tunewright.artifacts import ArtifactRef, InvalidRef, Kind, Manifest
from tunewright.artifacts.transfer import exists, lineage, load_manifest
from tunewright.chassis.errors import NotFound
from tunewright.gateway.http.auth import TrainKey
from tunewright.gateway.http.content import content_response
from tunewright.gateway.http.files import filing
from tunewright.gateway.http.state import State, state_of
from tunewright.gateway.keys import DEFAULT_PROJECT
from tunewright.gateway.recipe import FILE_PREFIX

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])


@router.get("/{kind}/{artifact_id}")
async def get_manifest(request: Request, kind: str, artifact_id: str, key: TrainKey) -> dict[str, Any]:
    """Return the manifest: everything that made the artifact, and every file it holds."""
    return _document(await run_in_threadpool(_manifest, state_of(request), key.project, _ref(kind, artifact_id)))


@router.get("/{kind}/{artifact_id}/lineage")
async def get_lineage(request: Request, kind: str, artifact_id: str, key: TrainKey) -> dict[str, Any]:
    """Return the manifests of the artifact and of all it was made from, each before its parents."""
    state, ref = state_of(request), _ref(kind, artifact_id)
    await run_in_threadpool(_manifest, state, key.project, ref)
    manifests = await run_in_threadpool(lineage, state.store, ref)
    return {"object": "list", "data": [_document(manifest) for manifest in manifests], "has_more": False}


@router.get("/{kind}/{artifact_id}/files/{path:path}")
async def get_file(request: Request, kind: str, artifact_id: str, path: str, key: TrainKey) -> Response:
    """Return one file of the artifact, such as report.html."""
    state = state_of(request)
    ref = _ref(kind, artifact_id)
    manifest = await run_in_threadpool(_manifest, state, key.project, ref)
    for entry in manifest.files:
        if entry.path == path:
            return await content_response(state, ref, entry)
    names = ", ".join(entry.path for entry in manifest.files[:20])
    raise NotFound(f"{ref.short} holds no file {path!r}; it holds {names}")


def sees(state: State, project: str, ref: ArtifactRef) -> bool:
    """Return True for an artifact that is in the store and that the project's runs have made or read.

    What no run of any project made, such as what was there before there were projects, is the default project's.
    """
    if ref.kind is Kind.UPLOAD:
        return filing(state).has(project, f"{FILE_PREFIX}{ref.id}")
    if not exists(state.store, ref):
        return False
    if str(ref) in state.views.made(project):
        return True
    return project == DEFAULT_PROJECT and str(ref) not in state.views.made_by_others(project)


def _manifest(state: State, project: str, ref: ArtifactRef) -> Manifest:
    if not sees(state, project, ref):
        raise NotFound(f"the object store holds no artifact {ref}")
    return load_manifest(state.store, ref)


def _ref(kind: str, artifact_id: str) -> ArtifactRef:
    try:
        return ArtifactRef.parse(f"{kind}/{artifact_id}")
    except InvalidRef as error:
        raise NotFound(str(error)) from error


def _document(manifest: Manifest) -> dict[str, Any]:
    ref = manifest.ref
    return {"object": "artifact", "ref": str(ref), "id": ref.id, **manifest.model_dump(mode="json")}
