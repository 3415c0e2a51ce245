"""One SHA-256 that names the content of a dataset version, whatever the order of rows and the names of files."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def fingerprint(train: NDArray[np.uint8], validation: NDArray[np.uint8]) -> str:
    """Return the hexadecimal SHA-256 of both sides' row digests, in ascending order.

    Args:
        train: n × 32; SHA-256 of each row's messages.
        validation: likewise.
    """
    digest = hashlib.sha256()
    for name, rows in (("train", train), ("validation", validation)):
        digest.update(f"{name}\n".encode())
        digest.update(np.sort(np.ascontiguousarray(rows).view("S32"), axis=None).view(np.uint8).data)
    return digest.hexdigest()
