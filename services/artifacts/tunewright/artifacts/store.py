"""The store seam: what a room needs of an object store, and no more. `s3.py` and `memory.py` implement it.

Knows nothing of artifacts: keys and bytes only. `transfer.py` stands on it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of bytes moved since the last call; may come from several threads."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object in the store."""

    key: str
    size_bytes: int
    sha256: str | None = None
    """Checksum kept beside the object when it was put by `put_file`; None in listings."""


class Store(Protocol):
    """An object store: whole objects, no folders, create-only puts.

    Every method raises StoreUnavailable when the store does not answer, refuses, or is full.
    """

    def put_bytes(self, key: str, data: bytes, *, create_only: bool = False) -> None:
        """Write an object. Raises ObjectExists if `create_only` and the key is taken (exactly one writer wins)."""

    def get_bytes(self, key: str) -> bytes:
        """Return an object. Raises ObjectNotFound."""

    def stat(self, key: str) -> ObjectInfo | None:
        """Return size and checksum, None if there is no such object."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects whose key starts with `prefix`, in order of key."""

    def delete(self, key: str) -> None:
        """Remove an object; silent if there is none."""

    def put_file(self, path: Path, key: str, *, sha256: str, progress: Progress | None = None) -> None:
        """Write a file in parallel parts, resuming a broken upload, skipping it if size and checksum are there already.

        Raises:
            IntegrityError: the file's bytes do not have this SHA-256.
        """

    def get_file(self, key: str, path: Path, *, size_bytes: int, sha256: str, progress: Progress | None = None) -> None:
        """Read an object into `path` in parallel ranges, resuming a broken download; `path` appears only when verified.

        Raises:
            ObjectNotFound: no such object.
            IntegrityError: size or SHA-256 differ from what is asked for.
        """
