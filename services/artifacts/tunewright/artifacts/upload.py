"""One file into an S3 bucket: in parallel parts, resumed after a break, hashed on the way. Knows nothing of artifacts.

A small note under `unfinished/` says which upload of a key is under way and for which content; whoever comes next, on
any machine, asks the server for the parts it holds, compares each with the file, and sends only the rest.
"""

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tunewright.artifacts.errors import ObjectNotFound, StoreUnavailable
from tunewright.artifacts.layout import unfinished_key
from tunewright.artifacts.local import check_sha256
from tunewright.artifacts.s3_client import S3Client, UploadGone
from tunewright.artifacts.store import ObjectInfo, Progress

_MEBIBYTE = 1 << 20
PART_BYTES = 8 * _MEBIBYTE
PARTS_AT_ONCE = 4
_PARTS_READ_AHEAD = 2
_MAX_PARTS = 10_000  # S3's own limit
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Note:
    """What must be known to go on with an upload."""

    upload_id: str
    sha256: str
    size_bytes: int
    part_bytes: int

    @classmethod
    def read(cls, client: S3Client, key: str) -> Self | None:
        """Return the note left for `key`; an unreadable one counts as none."""
        try:
            return cls(**json.loads(client.get(unfinished_key(key))))
        except (ObjectNotFound, ValueError, TypeError):
            return None

    def write(self, client: S3Client, key: str) -> None:
        """Leave the note."""
        client.put(unfinished_key(key), json.dumps(asdict(self)).encode())


def upload(client: S3Client, path: Path, key: str, *, sha256: str, progress: Progress | None = None) -> None:
    """Send a file; nothing is sent if size and checksum are there already. At most 7 parts are in memory.

    Raises:
        IntegrityError: the file does not have this SHA-256; nothing of it stays in the store.
        StoreUnavailable: the same call goes on where this one stopped.
    """
    wanted = ObjectInfo(key, path.stat().st_size, sha256)
    if wanted.size_bytes <= PART_BYTES:
        _send_whole(client, path, wanted, progress)
        return
    for _ in range(_TRIES):
        try:
            if client.stat(key) != wanted:
                _send_parts(client, path, wanted, progress)
            client.delete(unfinished_key(key))
        except UploadGone:  # another writer of the same file finished or gave up: look again
            continue
        return
    raise StoreUnavailable(f"the object store at {client.endpoint_url} lost the upload of {key!r} {_TRIES} times")


def part_bytes_of(size_bytes: int) -> int:
    """Return the size of parts: 8 MiB, more only where S3's 10,000 parts would not do (above 78 GiB)."""
    least = math.ceil(size_bytes / _MAX_PARTS)
    return max(PART_BYTES, math.ceil(least / _MEBIBYTE) * _MEBIBYTE)


def _send_whole(client: S3Client, path: Path, wanted: ObjectInfo, progress: Progress | None) -> None:
    if client.stat(wanted.key) == wanted:
        return
    data = path.read_bytes()
    check_sha256(path, hashlib.sha256(data).hexdigest(), str(wanted.sha256))
    client.put(wanted.key, data, sha256=wanted.sha256)
    if progress:
        progress(len(data))


def _send_parts(client: S3Client, path: Path, wanted: ObjectInfo, progress: Progress | None) -> None:
    note, present = _begin_or_go_on(client, wanted)
    parts, digest = _send_missing(client, path, wanted.key, note, present, progress)
    if digest != note.sha256:
        client.abort_upload(wanted.key, note.upload_id)
        client.delete(unfinished_key(wanted.key))
    check_sha256(path, digest, note.sha256)
    client.complete_upload(wanted.key, note.upload_id, parts)
    if client.stat(wanted.key) != wanted:  # S3 may say 200 and fail in the body
        raise StoreUnavailable(f"the object store at {client.endpoint_url} did not finish the upload of {wanted.key!r}")


def _begin_or_go_on(client: S3Client, wanted: ObjectInfo) -> tuple[_Note, dict[int, str]]:
    note = _Note.read(client, wanted.key)
    if note and (note.sha256, note.size_bytes) == (wanted.sha256, wanted.size_bytes):
        try:
            return note, client.list_parts(wanted.key, note.upload_id)
        except UploadGone:
            pass
    elif note:
        client.abort_upload(wanted.key, note.upload_id)
    sha256 = str(wanted.sha256)
    upload_id = client.begin_upload(wanted.key, sha256)
    note = _Note(upload_id, sha256, wanted.size_bytes, part_bytes_of(wanted.size_bytes))
    note.write(client, wanted.key)
    return note, {}


def _send_missing(
    client: S3Client, path: Path, key: str, note: _Note, present: dict[int, str], progress: Progress | None
) -> tuple[dict[int, str], str]:
    """Send the parts that the server lacks; return the ETags of all parts and the file's SHA-256."""
    digest, parts = hashlib.sha256(), dict[int, str]()
    sending: deque[Future[None]] = deque()

    def send(number: int, data: bytes) -> None:
        parts[number] = client.put_part(key, note.upload_id, number, data)
        if progress:
            progress(len(data))

    pool = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="upload")
    try:
        for number, data in _pieces(path, note.part_bytes):
            digest.update(data)
            if number in present and present[number] == hashlib.md5(data, usedforsecurity=False).hexdigest():
                parts[number] = present[number]
                continue
            sending.append(pool.submit(send, number, data))
            if len(sending) >= PARTS_AT_ONCE + _PARTS_READ_AHEAD:
                sending.popleft().result()
        while sending:
            sending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
    return parts, digest.hexdigest()


def _pieces(path: Path, size_bytes: int) -> Iterator[tuple[int, bytes]]:
    with path.open("rb", buffering=0) as file:
        number = 0
        while data := file.read(size_bytes):
            number += 1
            yield number, data
