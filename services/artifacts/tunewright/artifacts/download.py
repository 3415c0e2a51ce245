"""One object out of an S3 bucket: in parallel ranges, resumed after a break, verified. Knows nothing of artifacts.

Bytes gather in a hidden `.part` file; beside it a `.ranges` file has one line for each range that is complete. The
target appears by a rename once the SHA-256 of the whole is right.
"""

import errno
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tunewright.artifacts.errors import BrokenOff, IntegrityError, ObjectNotFound, StoreUnavailable
from tunewright.artifacts.local import check_sha256, check_size, holds, part_path
from tunewright.artifacts.s3_client import S3Client
from tunewright.artifacts.store import Progress

RANGE_BYTES = 8 << 20
RANGES_AT_ONCE = 4
_TRIES = 3
_HASH_BYTES = 1 << 20


def download(
    client: S3Client, key: str, path: Path, *, size_bytes: int, sha256: str, progress: Progress | None = None
) -> None:
    """Fetch an object into `path`; nothing is fetched if `path` holds it already. At most 4 pieces of 1 MiB in memory.

    Raises:
        ObjectNotFound: no such object.
        IntegrityError: size or SHA-256 differ; nothing stays on the disk.
        StoreUnavailable: the same call goes on where this one stopped.
        OSError: ENOSPC, before anything is moved, if there is no room for the whole.
    """
    if holds(path, size_bytes, sha256):
        return
    info = client.stat(key)
    if info is None:
        raise ObjectNotFound(key)
    check_size(key, info.size_bytes, size_bytes)
    partial = _Partial(path, size_bytes, sha256)
    resumed = bool(partial.done)
    if not _fill(client, key, partial, progress) and resumed:
        partial.remove()  # bytes of an earlier attempt are damaged, as after a power cut: once more from the start
        partial = _Partial(path, size_bytes, sha256)
        _fill(client, key, partial, progress)
    partial.finish(key)


class _Partial:
    """The bytes of a file that is on its way, and the record of those that are there."""

    def __init__(self, path: Path, size_bytes: int, sha256: str) -> None:
        self.path, self.size_bytes, self.sha256 = path, size_bytes, sha256
        self.part = part_path(path, sha256)
        self.record = self.part.with_suffix(".ranges")
        self.digest = hashlib.sha256()
        self.done = self._read_record()
        self._lock = threading.Lock()

    def range(self, index: int) -> tuple[int, int]:
        """Return start and length of a range, in bytes."""
        start = index * RANGE_BYTES
        return start, min(RANGE_BYTES, self.size_bytes - start)

    def allocate(self) -> None:
        """Take the room for the whole file now.

        Raises:
            OSError: ENOSPC, naming what is needed; the room taken is given back.
        """
        with self.part.open("ab") as file:
            if not self.size_bytes:
                return
            try:
                os.posix_fallocate(file.fileno(), 0, self.size_bytes)
            except OSError as error:
                self.remove()
                raise OSError(error.errno or errno.ENOSPC, _no_room(self.size_bytes), str(self.path)) from error

    def record_done(self, index: int) -> None:
        """Write down that a range is complete."""
        with self._lock, self.record.open("a") as file:
            file.write(f"{index}\n")

    def hash_range(self, index: int) -> None:
        """Take the next range into the checksum; ranges must come in order."""
        start, length = self.range(index)
        with self.part.open("rb") as file:
            file.seek(start)
            while length > 0 and (data := file.read(min(length, _HASH_BYTES))):
                self.digest.update(data)
                length -= len(data)

    def finish(self, key: str) -> None:
        """Let the file appear.

        Raises:
            IntegrityError: its SHA-256 is wrong; it is removed.
        """
        if self.digest.hexdigest() != self.sha256:
            self.remove()
        check_sha256(key, self.digest.hexdigest(), self.sha256)
        self.part.replace(self.path)
        self.record.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget what is there."""
        self.record.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def _read_record(self) -> set[int]:
        """Return the complete ranges; the record of a part that is not there or has another size counts as none."""
        if not self.part.exists() or not self.record.exists() or self.part.stat().st_size != self.size_bytes:
            self.remove()
            return set()
        lines = self.record.read_text(encoding="ascii", errors="replace").splitlines(keepends=True)
        return {int(line) for line in lines if line.endswith("\n") and line.strip().isdecimal()}


def _fill(client: S3Client, key: str, partial: _Partial, progress: Progress | None) -> bool:
    """Fetch the ranges that are missing and hash all in order as they come; return whether the checksum is right."""
    partial.allocate()
    indexes = range(-(-partial.size_bytes // RANGE_BYTES))
    with ExitStack() as stack:
        descriptor = os.open(partial.part, os.O_WRONLY)
        stack.callback(os.close, descriptor)
        pool = ThreadPoolExecutor(RANGES_AT_ONCE, thread_name_prefix="download")
        stack.callback(pool.shutdown, cancel_futures=True)  # comes before the close, and waits for those who write
        coming = {
            index: pool.submit(_fetch_range, client, key, partial, index, descriptor, progress)
            for index in indexes
            if index not in partial.done
        }
        for index in indexes:
            if index in coming:
                coming[index].result()
            partial.hash_range(index)
    return partial.digest.hexdigest() == partial.sha256


def _fetch_range(
    client: S3Client, key: str, partial: _Partial, index: int, descriptor: int, progress: Progress | None
) -> None:
    start, length = partial.range(index)
    position, end = start, start + length
    for attempt in range(1, _TRIES + 1):
        begun = position
        try:
            for piece in client.read(key, position, end - position):
                _write_all(descriptor, piece, position)
                position += len(piece)
                if progress:
                    progress(len(piece))
        except StoreUnavailable as error:
            on_its_way = isinstance(error, BrokenOff) or position > begun  # worth another connection
            if attempt == _TRIES or not on_its_way:
                raise
        if position >= end:
            break
    if position != end:
        raise IntegrityError(f"{key}: bytes {start} to {position} came, up to {end} were asked for")
    partial.record_done(index)


def _write_all(descriptor: int, data: bytes, position: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written


def _no_room(size_bytes: int) -> str:
    return f"no room for a file of {size_bytes} bytes"
