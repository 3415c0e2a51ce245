"""Inputs of jobs on this machine's disk: one verified copy an artifact, shared by jobs, dropped when room is needed.

Knows nothing of jobs.
"""

import logging
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tunewright.artifacts import ArtifactRef, Manifest, Progress, Store
from tunewright.artifacts.transfer import chosen, fetch, load_manifest

_SPARE_BYTES = 1 << 30
"""Room that is left free beside a download, for the stage's own output."""


class InputCache:
    """Folders `<root>/<kind>/<id>` with the files of artifacts. Thread-safe; one process per root."""

    def __init__(self, store: Store, root: Path) -> None:
        self._store = store
        self._root = root
        self._lock = threading.Lock()
        self._in_use: Counter[Path] = Counter()

    @contextmanager
    def hold(
        self,
        refs: Mapping[str, ArtifactRef],
        progress: Progress | None = None,
        files: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Iterator[dict[str, "Held"]]:
        """Yield name → files and manifest of each artifact; none of them is dropped inside the block.

        Args:
            refs: name → artifact.
            progress: told of the bytes moved.
            files: name → shell patterns of the files that are needed; all files of the artifacts not named here. What
                another job fetched of an artifact may lie there too.

        Raises:
            ArtifactError: not in the store, damaged, or the store does not answer.
            OSError: no room left, even after dropping what nobody uses.
        """
        with ExitStack() as stack:
            only = files or {}
            yield {
                name: stack.enter_context(self._hold_one(ref, progress, only.get(name))) for name, ref in refs.items()
            }

    @contextmanager
    def _hold_one(self, ref: ArtifactRef, progress: Progress | None, only: tuple[str, ...] | None) -> Iterator["Held"]:
        folder = self._root / ref.kind.value / ref.id
        with self._lock:
            self._in_use[folder] += 1
        try:
            with self._lock:
                manifest = load_manifest(self._store, ref)
                self._make_room(sum(entry.size_bytes for entry in chosen(manifest.files, only)))
                fetch(self._store, ref, folder, progress, only=only)
                folder.touch()
            yield Held(folder, manifest)
        finally:
            with self._lock:
                self._in_use[folder] -= 1

    def _make_room(self, needed_bytes: int) -> None:
        """Drop the least recently used folders until `needed_bytes` and the spare room are free."""
        self._root.mkdir(parents=True, exist_ok=True)
        unused = [path for path in self._root.glob("*/*") if path.is_dir() and not self._in_use[path]]
        for folder in sorted(unused, key=lambda path: path.stat().st_mtime):
            if shutil.disk_usage(self._root).free >= needed_bytes + _SPARE_BYTES:
                return
            logging.getLogger(__name__).info("dropping a cached input to make room", extra={"folder": str(folder)})
            shutil.rmtree(folder)


class Held:
    """An artifact on disk."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
