"""Reads and writes single characters of UTF-8 in compiled loops. Knows nothing of what they mean.

The bytes must be valid UTF-8 (lone surrogates, as Python's `surrogatepass` writes them, are let through).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled, nth

ASCII = 0x80
_TWO, _THREE, _FOUR = 0xC0, 0xE0, 0xF0


@compiled
def character(data: NDArray[np.uint8], at: int) -> tuple[Any, int]:
    """Return the code point that begins at byte `at`, and its length in bytes."""
    first = np.int64(data[nth(at)])
    if first < ASCII:
        return first, 1
    second = np.int64(data[nth(at + 1)]) & 0x3F
    if first < _THREE:
        return ((first & 0x1F) << 6) | second, 2
    third = np.int64(data[nth(at + 2)]) & 0x3F
    if first < _FOUR:
        return ((first & 0x0F) << 12) | (second << 6) | third, 3
    return ((first & 0x07) << 18) | (second << 12) | (third << 6) | (np.int64(data[nth(at + 3)]) & 0x3F), 4


@compiled
def write(out: NDArray[np.uint8], at: int, point: int | np.int64) -> int:
    """Write a code point at byte `at`; return the byte after it."""
    if point < ASCII:
        out[nth(at)] = point
        return at + 1
    if point < 1 << 11:
        out[nth(at)] = _TWO | (point >> 6)
        out[nth(at + 1)] = ASCII | (point & 0x3F)
        return at + 2
    if point < 1 << 16:
        out[nth(at)] = _THREE | (point >> 12)
        out[nth(at + 1)] = ASCII | ((point >> 6) & 0x3F)
        out[nth(at + 2)] = ASCII | (point & 0x3F)
        return at + 3
    out[nth(at)] = _FOUR | (point >> 18)
    out[nth(at + 1)] = ASCII | ((point >> 12) & 0x3F)
    out[nth(at + 2)] = ASCII | ((point >> 6) & 0x3F)
    out[nth(at + 3)] = ASCII | (point & 0x3F)
    return at + 4
