"""One SHA-256 that names the content of a dataset version, whatever the order of rows and the names of files."""

import hashlib
from collections.abc import Iterable


def fingerprint(train: Iterable[bytes], validation: Iterable[bytes]) -> str:
    """Return the hexadecimal SHA-256 of both sides' row digests (32 bytes each, SHA-256 of a row's messages)."""
    digest = hashlib.sha256()
    for name, rows in (("train", train), ("validation", validation)):
        digest.update(f"{name}\n".encode())
        for row in sorted(rows):
            digest.update(row)
    return digest.hexdigest()
