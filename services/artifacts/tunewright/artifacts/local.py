"""Files on this machine while they are on their way: checked against a checksum, seen only when complete.

Knows nothing of any store.
"""

import errno
import hashlib
import shutil
from pathlib import Path

from tunewright.artifacts.errors import IntegrityError
from tunewright.artifacts.manifest import file_sha256


def part_path(path: Path, sha256: str) -> Path:
    """Return where the bytes of `path` lie until they are verified; its length does not depend on the file's name."""
    token = hashlib.sha256(f"{path.name}\0{sha256}".encode()).hexdigest()[:32]
    return path.with_name(f".{token}.part")


def holds(path: Path, size_bytes: int, sha256: str) -> bool:
    """Return True if `path` is a regular file with exactly these bytes."""
    return path.is_file() and path.stat().st_size == size_bytes and file_sha256(path) == sha256


def check_sha256(name: object, found: str, promised: str) -> None:
    """Compare two checksums.

    Raises:
        IntegrityError: they differ.
    """
    if found != promised:
        raise IntegrityError(f"{name}: SHA-256 is {found}, {promised} is expected")


def check_size(name: object, found: int, promised: int) -> None:
    """Compare two sizes in bytes.

    Raises:
        IntegrityError: they differ.
    """
    if found != promised:
        raise IntegrityError(f"{name}: holds {found} bytes, {promised} are expected")


def check_space(directory: Path, needed_bytes: int) -> None:
    """Look whether the file system of `directory` has room.

    Raises:
        OSError: ENOSPC, with what is needed and what is there.
    """
    free = shutil.disk_usage(directory).free
    if needed_bytes > free:
        raise OSError(errno.ENOSPC, f"{needed_bytes} bytes are needed and {free} are free", str(directory))


def allocated_bytes(path: Path) -> int:
    """Return the disk space that `path` has already taken, 0 if it does not exist."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
