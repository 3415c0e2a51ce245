"""Artifacts in and out of a store: commit, fetch, lineage. Knows the store only by its seam.

Commit protocol: files first, in parallel, those already there skipped; `manifest.json` last, by a create-only put.
Without a manifest nothing exists; what was left half-written is found and completed by the next attempt.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from tunewright.artifacts.errors import IntegrityError, ObjectExists, ObjectNotFound, StoreUnavailable
from tunewright.artifacts.layout import artifact_prefix, checked_path, file_key, is_log, manifest_key
from tunewright.artifacts.local import allocated_bytes, check_space, holds, part_path
from tunewright.artifacts.manifest import FileEntry, Manifest
from tunewright.artifacts.refs import ArtifactRef
from tunewright.artifacts.store import Progress, Store

_FILES_AT_ONCE = 3
_T = TypeVar("_T")
_R = TypeVar("_R")


def commit(store: Store, manifest: Manifest, directory: Path, progress: Progress | None = None) -> ArtifactRef:
    """Upload the files of a sealed manifest from `directory`, then commit it; fine if somebody else did already.

    Returns:
        The artifact's reference.

    Raises:
        IntegrityError: a file below `directory` is not what the manifest says.
        FileNotFoundError: a file of the manifest is not there.
        StoreUnavailable: the same call goes on where this one stopped.
    """
    commit_folder(store, artifact_prefix(manifest.ref), manifest, directory, progress)
    return manifest.ref


def fetch(
    store: Store,
    ref: ArtifactRef,
    directory: Path,
    progress: Progress | None = None,
    *,
    only: Iterable[str] | None = None,
) -> Manifest:
    """Download an artifact's files into `directory`, verified; files that are complete there already are kept.

    Args:
        store: where it lies.
        ref: which artifact.
        directory: folder for the files.
        progress: told of the bytes moved.
        only: shell patterns (`*.json`); files whose path fits none of them stay in the store. None: all files.

    Returns:
        Its manifest, which names all files, whether they were chosen or not.

    Raises:
        ObjectNotFound: no such artifact.
        IntegrityError: the manifest or a file is damaged.
        OSError: ENOSPC, before anything is moved, if the disk has too little room.
    """
    manifest = load_manifest(store, ref)
    _fetch_files(store, artifact_prefix(ref), manifest.files, directory, progress, only)
    return manifest


def chosen(files: Iterable[FileEntry], only: Iterable[str] | None) -> list[FileEntry]:
    """Return the files whose path fits one of the shell patterns, all of them if there are no patterns."""
    patterns = None if only is None else tuple(only)
    return [
        entry for entry in files if patterns is None or any(fnmatchcase(entry.path, pattern) for pattern in patterns)
    ]


def exists(store: Store, ref: ArtifactRef) -> bool:
    """Return True if the artifact was committed."""
    return store.stat(manifest_key(artifact_prefix(ref))) is not None


def load_manifest(store: Store, ref: ArtifactRef) -> Manifest:
    """Return an artifact's manifest, checked against its id.

    Raises:
        ObjectNotFound: no such artifact.
        IntegrityError: not a manifest, or that of another artifact.
    """
    manifest = load_folder_manifest(store, artifact_prefix(ref))
    if manifest.ref != ref:
        raise IntegrityError(f"the manifest stored for {ref} is that of {manifest.ref}")
    return manifest


def lineage(store: Store, ref: ArtifactRef) -> list[Manifest]:
    """Return the manifests of `ref` and of all it was made from; each stands before its parents, raw uploads last.

    Raises:
        ObjectNotFound: an ancestor was deleted.
        IntegrityError: a manifest is damaged.
    """
    ancestors_first: list[Manifest] = []
    seen: set[ArtifactRef] = set()

    def visit(current: ArtifactRef) -> None:
        """Put an artifact behind all it was made from."""
        if current in seen:
            return
        seen.add(current)
        manifest = load_manifest(store, current)
        for parent in manifest.parents.values():
            visit(ArtifactRef.parse(parent))
        ancestors_first.append(manifest)

    visit(ref)
    return ancestors_first[::-1]


def commit_folder(
    store: Store, prefix: str, manifest: Manifest, directory: Path, progress: Progress | None = None
) -> None:
    """Do what `commit` does below a given key prefix (with a slash at its end).

    A folder whose key is not its content, such as a checkpoint's, may be committed anew: the old manifest goes first.

    Raises:
        IntegrityError: a file below `directory` is not what the manifest says, or somebody else committed other content
            under this prefix at the same time.
    """
    standing = _standing_manifest(store, prefix, manifest)
    # Where the manifest stands already, only what it names is completed: logs of a second run would be nobody's.
    entries = manifest.files if standing is None else [entry for entry in manifest.files if not is_log(entry.path)]

    def put(entry: FileEntry) -> None:
        key = file_key(prefix, entry.path, entry.sha256)
        store.put_file(directory / entry.path, key, sha256=entry.sha256, progress=progress)

    _in_parallel(put, entries)
    if standing is None:
        _put_manifest(store, prefix, manifest)


def fetch_folder(store: Store, prefix: str, directory: Path, progress: Progress | None = None) -> Manifest:
    """Do what `fetch` does below a given key prefix."""
    manifest = load_folder_manifest(store, prefix)
    _fetch_files(store, prefix, manifest.files, directory, progress)
    return manifest


def load_folder_manifest(store: Store, prefix: str) -> Manifest:
    """Return the manifest that commits `prefix`.

    Raises:
        ObjectNotFound: nothing was committed there.
        IntegrityError: not a manifest.
    """
    return Manifest.from_json(store.get_bytes(manifest_key(prefix)))


def delete_folder(store: Store, prefix: str) -> None:
    """Remove everything below `prefix`, its commit first, so that no half of it is ever taken for whole."""
    store.delete(manifest_key(prefix))
    for info in list(store.list(prefix)):
        store.delete(info.key)


def _standing_manifest(store: Store, prefix: str, manifest: Manifest) -> Manifest | None:
    """Return the manifest that stands there if it has the same id; one that is damaged or different is removed."""
    try:
        standing = load_folder_manifest(store, prefix)
    except ObjectNotFound:
        return None
    except IntegrityError:
        standing = None
    if standing is None or standing.ref != manifest.ref:
        store.delete(manifest_key(prefix))
        return None
    return standing


def _put_manifest(store: Store, prefix: str, manifest: Manifest) -> None:
    """Commit. A put whose answer was lost is repeated once: to find our own manifest is as good as to write it."""
    for last in (False, True):
        try:
            store.put_bytes(manifest_key(prefix), manifest.to_json(), create_only=True)
        except ObjectExists:
            if load_folder_manifest(store, prefix).ref != manifest.ref:
                raise IntegrityError(f"somebody else committed other content under {prefix!r}") from None
        except StoreUnavailable:
            if last:
                raise
            continue
        return


def _fetch_files(
    store: Store,
    prefix: str,
    files: Iterable[FileEntry],
    directory: Path,
    progress: Progress | None,
    only: Iterable[str] | None = None,
) -> None:
    entries = chosen([entry for entry in files if checked_path(entry.path)], only)
    directory.mkdir(parents=True, exist_ok=True)
    complete = _in_parallel(lambda entry: holds(directory / entry.path, entry.size_bytes, entry.sha256), entries)
    missing = [entry for entry, done in zip(entries, complete, strict=True) if not done]
    check_space(directory, sum(_bytes_to_come(directory / entry.path, entry) for entry in missing))

    def get(entry: FileEntry) -> None:
        path = directory / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        key = file_key(prefix, entry.path, entry.sha256)
        store.get_file(key, path, size_bytes=entry.size_bytes, sha256=entry.sha256, progress=progress)

    _in_parallel(get, missing)


def _bytes_to_come(path: Path, entry: FileEntry) -> int:
    return max(0, entry.size_bytes - allocated_bytes(part_path(path, entry.sha256)))


def _in_parallel(work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Return the results in order; the first failure ends it, and what was not begun by then is not begun."""
    pool = ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="transfer")
    try:
        return [future.result() for future in [pool.submit(work, item) for item in items]]
    finally:
        pool.shutdown(cancel_futures=True)
