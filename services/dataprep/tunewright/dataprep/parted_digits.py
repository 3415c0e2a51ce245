"""Tells the texts of which GPT-2's splitter makes the tokens that it makes once digits are parted from all else.

Where no token but a digit itself holds a digit, no merge reaches over one, and it makes no difference whether digits
are parted first: but for white space before one. GPT-2's pattern leaves the last of several spaces to the word that
follows, and takes all of them where the text ends, as it does before a digit that was parted. Numbers that are no
ASCII digits (½, Ⅳ, １) have tokens that merges do reach over, and so may characters that this Python's Unicode does not
know yet. Texts with either are told; of all others the tokens are the same. Knows no tokenizer.
"""

# ruff: noqa: PLR2004 - the numbers are bytes of UTF-8 and of ASCII, each explained where it is not plain

import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled, nth
from tunewright.dataprep.utf8 import character

_LIMIT = 0x20000
"""No number lies beyond: there are ideographs, tags and private characters."""


def differ(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return True for the texts of which tokens may differ; they lie in `data`, in UTF-8, and end at `ends` (bytes)."""
    found = np.zeros(len(ends), np.bool_)
    _differ(data, ends, _doubtful(), found)
    return found


def warm() -> None:
    """Compile the pass, or load it from the cache: once in the parent, before workers start."""
    differ(np.frombuffer(b"1", np.uint8), np.array([1]))


@cache
def _doubtful() -> NDArray[np.bool_]:
    """Return for each code point below _LIMIT whether it is a number, or not known, or may be either."""
    kinds = [unicodedata.category(chr(point)) for point in range(_LIMIT)]
    found = np.array([kind[0] == "N" or kind == "Cn" for kind in kinds], np.bool_)
    found[ord("0") : ord("9") + 1] = False
    return found


@compiled
def _differ(
    data: NDArray[np.uint8], ends: NDArray[np.int64], doubtful: NDArray[np.bool_], found: NDArray[np.bool_]
) -> None:
    start = 0
    for number in range(len(ends)):
        end = ends[number]
        found[number] = _differs(data, start, end, doubtful)
        start = end


@compiled
def _differs(data: NDArray[np.uint8], start: int, end: int, doubtful: NDArray[np.bool_]) -> bool:
    at, spaces = start, 0
    while at < end:
        byte = data[nth(at)]
        if byte < 0x80:
            at += 1
            if byte > 57:
                spaces = 0
            elif byte >= 48:
                if spaces > 1:
                    return True
                spaces = 0
            else:
                spaces = spaces + 1 if byte <= 32 else 0
        else:
            point, size = character(data, at)
            at += size
            if point < 0x20000 and doubtful[nth(point)]:
                return True
            spaces = spaces + 1 if _is_wide_space(point) else 0
    return False


@compiled
def _is_wide_space(point: int) -> bool:
    if point < 0x1680:
        return point in (0x85, 0xA0)
    return point == 0x1680 or 0x2000 <= point <= 0x205F or point == 0x3000
