"""A store in this process's memory, for tests: the same promises as `s3.py`, kept by one lock."""

import threading
from collections.abc import Iterator
from pathlib import Path

from tunewright.artifacts.errors import ObjectExists, ObjectNotFound
from tunewright.artifacts.local import check_sha256, check_size, holds, part_path
from tunewright.artifacts.manifest import bytes_sha256
from tunewright.artifacts.store import ObjectInfo, Progress


class MemoryStore:
    """Implements `store.Store`; lives and dies with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[bytes, str | None]] = {}

    def put_bytes(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """See Store."""
        with self._lock:
            if create_only and key in self._objects:
                raise ObjectExists(key)
            self._objects[key] = (bytes(data), None)

    def get_bytes(self, key: str) -> bytes:
        """See Store."""
        with self._lock:
            if key not in self._objects:
                raise ObjectNotFound(key)
            return self._objects[key][0]

    def stat(self, key: str) -> ObjectInfo | None:
        """See Store."""
        with self._lock:
            if key not in self._objects:
                return None
            data, sha256 = self._objects[key]
            return ObjectInfo(key, len(data), sha256)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store; what is yielded is the state at the call."""
        with self._lock:
            found = [ObjectInfo(key, len(data)) for key, (data, _) in self._objects.items() if key.startswith(prefix)]
        return iter(sorted(found, key=lambda info: info.key))

    def delete(self, key: str) -> None:
        """See Store."""
        with self._lock:
            self._objects.pop(key, None)

    def put_file(self, path: Path, key: str, *, sha256: str, progress: Progress | None = None) -> None:
        """See Store."""
        if self.stat(key) == ObjectInfo(key, path.stat().st_size, sha256):
            return
        data = path.read_bytes()
        check_sha256(path, bytes_sha256(data), sha256)
        with self._lock:
            self._objects[key] = (data, sha256)
        if progress:
            progress(len(data))

    def get_file(self, key: str, path: Path, *, size_bytes: int, sha256: str, progress: Progress | None = None) -> None:
        """See Store."""
        if holds(path, size_bytes, sha256):
            return
        data = self.get_bytes(key)
        check_size(key, len(data), size_bytes)
        check_sha256(key, bytes_sha256(data), sha256)
        partial = part_path(path, sha256)
        partial.write_bytes(data)
        partial.replace(path)
        if progress:
            progress(len(data))
