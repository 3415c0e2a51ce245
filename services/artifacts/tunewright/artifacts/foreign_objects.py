"""Objects that others put into a bucket: listed and copied to this machine as they are. Knows nothing of artifacts.

They have no checksum of ours, so what is checked is the size that the listing promised.
"""

from collections.abc import Iterator
from pathlib import Path

from tunewright.artifacts.errors import StoreUnavailable
from tunewright.artifacts.local import check_size, check_space
from tunewright.artifacts.s3_client import S3Client
from tunewright.artifacts.store import ObjectInfo

_TRIES = 3


def listed(client: S3Client, prefix: str) -> Iterator[ObjectInfo]:
    """Yield the objects whose key starts with `prefix`, as the server orders them.

    Raises:
        StoreUnavailable: the store does not answer, refuses, or has no such bucket.
    """
    yield from client.list(prefix)


def copy(client: S3Client, key: str, path: Path, size_bytes: int) -> None:
    """Write an object into a file, piece by piece; a broken connection is taken up where it broke, three times.

    Raises:
        ObjectNotFound: no such object.
        IntegrityError: it does not hold `size_bytes`; it has changed since it was listed.
        StoreUnavailable: the store does not answer or refuses.
        OSError: ENOSPC, before anything is moved.
    """
    check_space(path.parent, size_bytes)
    info = client.stat(key)
    check_size(key, info.size_bytes if info else 0, size_bytes)
    with path.open("wb") as file:
        for attempt in range(_TRIES):
            try:
                for piece in client.read(key, start=file.tell()):
                    file.write(piece)
            except StoreUnavailable:
                if attempt == _TRIES - 1:
                    raise
                if file.tell() < size_bytes:
                    continue
            break
    check_size(key, path.stat().st_size, size_bytes)
