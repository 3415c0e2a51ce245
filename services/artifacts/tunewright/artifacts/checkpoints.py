"""Checkpoints of a job in the store: saved whole, found by number, pruned without ever losing the newest valid one.

`checkpoints/<job_id>/<step>/`, each committed by its own manifest. Knows nothing of what a trainer keeps in them.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tunewright.artifacts import layout
from tunewright.artifacts.errors import IntegrityError, ObjectNotFound, UnsafePath
from tunewright.artifacts.manifest import Manifest, seal
from tunewright.artifacts.refs import Kind
from tunewright.artifacts.store import ObjectInfo, Progress, Store
from tunewright.artifacts.transfer import commit_folder, delete_folder, fetch_folder, load_folder_manifest

_STEP = re.compile(r"(0|[1-9][0-9]*)/")
_DAMAGED = (IntegrityError, ObjectNotFound, UnsafePath)


def save(
    store: Store,
    job_id: str,
    step: int,
    directory: Path,
    *,
    created_by: str = "trainer",
    progress: Progress | None = None,
) -> Manifest:
    """Save `directory` as the job's checkpoint after `step` steps, in place of an earlier one for that step."""
    draft = Manifest(kind=Kind.CHECKPOINT, created_by=created_by, spec={"job_id": job_id, "step": step})
    manifest = seal(draft, directory, {})
    commit_folder(store, layout.checkpoint_prefix(job_id, step), manifest, directory, progress)
    return manifest


def steps(store: Store, job_id: str) -> list[int]:
    """Return the steps of which the store holds anything, complete or not; newest first, by number."""
    prefix = layout.checkpoint_prefix(job_id)
    matches = (_STEP.match(info.key, len(prefix)) for info in store.list(prefix))
    return sorted({int(match[1]) for match in matches if match}, reverse=True)


def is_valid(store: Store, job_id: str, step: int) -> bool:
    """Return True if the checkpoint was committed and each of its files is there with its size and recorded checksum.

    The bytes themselves are verified when they are fetched.
    """
    prefix = layout.checkpoint_prefix(job_id, step)
    try:
        manifest = load_folder_manifest(store, prefix)
        wanted = [
            ObjectInfo(layout.file_key(prefix, entry.path, entry.sha256), entry.size_bytes, entry.sha256)
            for entry in manifest.files
        ]
    except _DAMAGED:
        return False
    return all(store.stat(info.key) == info for info in wanted)


def restore_newest(store: Store, job_id: str, target_dir: Path, progress: Progress | None = None) -> int | None:
    """Fetch the newest valid checkpoint into `target_dir/checkpoint-<step>`; the folder holds just its files then.

    Incomplete and damaged ones are skipped, and nothing of them is left in `target_dir`.

    Returns:
        Its step, None if the job has no valid checkpoint.

    Raises:
        StoreUnavailable: the store does not answer.
        OSError: ENOSPC if the disk has too little room.
    """
    for step in steps(store, job_id):
        folder = target_dir / f"checkpoint-{step}"
        try:
            manifest = fetch_folder(store, layout.checkpoint_prefix(job_id, step), folder, progress)
        except _DAMAGED:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        _keep_only(folder, {entry.path for entry in manifest.files})
        return step
    return None


def prune(store: Store, job_id: str, keep: int) -> list[int]:
    """Remove all checkpoints but the newest `keep` valid ones (at least 1), and what is incomplete below the newest.

    Something incomplete above the newest valid one may be on its way in, and stays.

    Returns:
        The steps removed.
    """
    if keep < 1:
        raise ValueError(f"keep is {keep}: at least the newest valid checkpoint is kept")
    return list(_pruned(store, job_id, keep))


def _pruned(store: Store, job_id: str, keep: int) -> Iterator[int]:
    kept = 0
    for step in steps(store, job_id):
        if kept < keep and is_valid(store, job_id, step):
            kept += 1
        elif kept:
            delete_folder(store, layout.checkpoint_prefix(job_id, step))
            yield step


def _keep_only(folder: Path, paths: set[str]) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in paths:
            path.unlink()
