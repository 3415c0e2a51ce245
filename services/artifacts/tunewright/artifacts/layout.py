"""Where things lie in the bucket. The only place that spells a key.

<kind>/<id>/files/<path>              content of an artifact
<kind>/<id>/logs/<sha256>/<path>      its logs, by content: two runs with one id do not overwrite each other's
<kind>/<id>/manifest.json             its commit: written last, create-only; without it there is no artifact
checkpoints/<job_id>/<step>/…         the same two, one artifact-like folder a checkpoint
jobs/<service>/<job_id>/job.json      newest state of a job
jobs/<service>/<job_id>/events/<n>.jsonl   events from sequence number n (20 digits) on
deployments/<name>.json               what should be served under a name
parts/<upload_id>/<part_id>           one part of a file that comes in parts, until it is whole
unfinished/<key>                      note about a multipart upload of <key> that is under way
"""

import unicodedata
from pathlib import PurePosixPath

from tunewright.artifacts.errors import UnsafePath
from tunewright.artifacts.refs import ArtifactRef

MANIFEST = "manifest.json"
_LOG_FOLDER = "logs/"
_MAX_PATH_BYTES = 900  # S3 ends at 1,024 for the whole key; the prefix of an artifact takes 90


def artifact_prefix(ref: ArtifactRef) -> str:
    """Return the folder of an artifact, with a slash at its end."""
    return f"{ref.kind.value}/{ref.id}/"


def checkpoint_prefix(job_id: str, step: int | None = None) -> str:
    """Return the folder of a job's checkpoints, or of the one at `step` (optimizer steps done)."""
    return f"checkpoints/{job_id}/" if step is None else f"checkpoints/{job_id}/{step}/"


def job_prefix(service: str, job_id: str = "") -> str:
    """Return the folder of a service's jobs, or of one of them."""
    return f"jobs/{service}/{job_id}/" if job_id else f"jobs/{service}/"


def deployment_key(name: str = "") -> str:
    """Return the key of the record of a deployment, or the prefix of all of them.

    Raises:
        UnsafePath: the name is not a plain one.
    """
    return f"deployments/{checked_path(name)}.json" if name else "deployments/"


def part_key(upload_id: str, part_id: str = "") -> str:
    """Return the key of one part of an upload, or the prefix of all of them."""
    return f"parts/{upload_id}/{part_id}"


def is_log(path: str) -> bool:
    """Return True for files that are kept with an artifact and do not count for its id."""
    return path.startswith(_LOG_FOLDER)


def manifest_key(prefix: str) -> str:
    """Return the key of the manifest that commits the folder `prefix`."""
    return f"{prefix}{MANIFEST}"


def file_key(prefix: str, path: str, sha256: str) -> str:
    """Return the key of one file of the folder `prefix`.

    Raises:
        UnsafePath: the path is not a plain relative one.
    """
    checked = checked_path(path)
    return (
        f"{prefix}logs/{sha256}/{checked.removeprefix(_LOG_FOLDER)}" if is_log(checked) else f"{prefix}files/{checked}"
    )


def unfinished_key(key: str) -> str:
    """Return where an upload of `key` that is under way leaves what is needed to go on with it."""
    return f"unfinished/{key}"


def checked_path(path: str) -> str:
    """Return `path` if it is relative, normalised, and stays in its folder.

    Raises:
        UnsafePath: it is not.
    """
    pure = PurePosixPath(path)
    plain = path == str(pure) and "\\" not in path and path not in {"", "."} and _storable(path)
    if not plain or pure.is_absolute() or ".." in pure.parts:
        raise UnsafePath(f"{path!r} is no path inside an artifact: plain, relative, without '..' is expected")
    return path


def _storable(path: str) -> bool:
    """Return True for text that S3 keeps as it is: nothing that XML 1.0 cannot carry, at most 900 bytes of UTF-8."""
    odd = {"Cc", "Cs"}  # control characters, and the lone surrogates that stand for bytes that are no UTF-8
    clean = not any(unicodedata.category(char) in odd or char in "\ufffe\uffff" for char in path)
    return clean and len(path.encode()) <= _MAX_PATH_BYTES
