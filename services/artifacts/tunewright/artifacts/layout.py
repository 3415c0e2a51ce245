"""Where things lie in the bucket. The only place that spells a key.

    <kind>/<id>/files/<path>              content of an artifact
    <kind>/<id>/manifest.json             its commit: written last, create-only; without it there is no artifact
    checkpoints/<job_id>/<step>/…         the same two, one artifact-like folder a checkpoint
    jobs/<service>/<job_id>/job.json      newest state of a job
    jobs/<service>/<job_id>/events/<n>.jsonl   events from sequence number n (20 digits) on
"""

from pathlib import PurePosixPath

from tunewright.artifacts.errors import UnsafePath
from tunewright.artifacts.refs import ArtifactRef

MANIFEST = "manifest.json"


def artifact_prefix(ref: ArtifactRef) -> str:
    """Return the folder of an artifact, with a slash at its end."""
    return f"{ref.kind.value}/{ref.id}/"


def checkpoint_prefix(job_id: str, step: int | None = None) -> str:
    """Return the folder of a job's checkpoints, or of the one at `step` (optimizer steps done)."""
    return f"checkpoints/{job_id}/" if step is None else f"checkpoints/{job_id}/{step}/"


def job_prefix(service: str, job_id: str = "") -> str:
    """Return the folder of a service's jobs, or of one of them."""
    return f"jobs/{service}/{job_id}/" if job_id else f"jobs/{service}/"


def file_key(prefix: str, path: str) -> str:
    """Return the key of a content file.

    Raises:
        UnsafePath: the path is not a plain relative one.
    """
    return f"{prefix}files/{checked_path(path)}"


def checked_path(path: str) -> str:
    """Return `path` if it is relative, normalised, and stays in its folder.

    Raises:
        UnsafePath: it is not.
    """
    pure = PurePosixPath(path)
    plain = path == str(pure) and "\\" not in path and "\0" not in path and path not in {"", "."}
    if not plain or pure.is_absolute() or ".." in pure.parts:
        raise UnsafePath(f"{path!r} is no path inside an artifact: plain, relative, without '..' is expected")
    return path
