"""One file of an artifact as an answer: safe content types, never a page that may run scripts on our origin."""

import shutil
import tempfile
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from tunewright.artifacts import ArtifactRef, FileEntry
from tunewright.artifacts.layout import artifact_prefix, file_key
from tunewright.gateway.http.state import State

_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".jinja": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".png": "image/png",
}
_UNKNOWN = "application/octet-stream"


async def content_response(state: State, ref: ArtifactRef, entry: FileEntry, *, download: bool = False) -> Response:
    """Return a file, fetched and checked against its SHA-256 first; its copy on disk is dropped when it was sent.

    Raises:
        ArtifactError: it is not there, damaged, or the store does not answer.
    """
    folder = Path(await run_in_threadpool(_scratch, state.settings.work_dir / "content"))
    path = folder / "content"
    key = file_key(artifact_prefix(ref), entry.path, entry.sha256)
    try:
        await run_in_threadpool(state.store.get_file, key, path, size_bytes=entry.size_bytes, sha256=entry.sha256)
    except BaseException:
        await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)
        raise
    name = PurePosixPath(entry.path).name
    media_type = _UNKNOWN if download else _TYPES.get(PurePosixPath(name).suffix.lower(), _UNKNOWN)
    disposition = "attachment" if media_type == _UNKNOWN else "inline"
    headers = {
        "Content-Security-Policy": _SANDBOX,
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(name, safe='')}",
        "ETag": f'"{entry.sha256}"',
    }
    clean_up = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(path, headers=headers, media_type=media_type, background=clean_up)


def _scratch(root: Path) -> str:
    root.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(dir=root)
