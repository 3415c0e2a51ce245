"""Finds equal numbers among many: which keys occur more than once, and where. Knows nothing of what they stand for."""

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled

_PLACES_PER_KEY = 16
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def repeated(keys: NDArray[np.uint64], alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return, ascending, the numbers of the living keys that may occur more than once: all that do, and a few others.

    Takes 4 bytes of memory a key while it runs.
    """
    bits = max(10, int(len(keys) * _PLACES_PER_KEY - 1).bit_length())
    seen = np.zeros(1 << (bits - 2), np.uint8)
    found = np.empty(_mark(keys, alive, seen, bits), np.int64)
    _collect(keys, alive, seen, bits, found)
    return found


@compiled
def _mark(keys: NDArray[np.uint64], alive: NDArray[np.bool_], seen: NDArray[np.uint8], bits: int) -> int:
    """Count each key in two bits, up to two; return how many keys share their place with another."""
    count, shift = 0, np.uint64(64 - bits)
    for number in range(len(keys)):
        if alive[number]:
            place = (keys[number] * _SPREAD) >> shift
            where, by = place >> np.uint64(2), (place & np.uint64(3)) * np.uint64(2)
            before = (np.uint64(seen[where]) >> by) & np.uint64(3)
            if before < np.uint64(2):
                seen[where] = np.uint8(np.uint64(seen[where]) + (np.uint64(1) << by))
            count += 0 if before == 0 else 2 if before == 1 else 1
    return count


@compiled
def _collect(
    keys: NDArray[np.uint64], alive: NDArray[np.bool_], seen: NDArray[np.uint8], bits: int, found: NDArray[np.int64]
) -> None:
    count, shift = 0, np.uint64(64 - bits)
    for number in range(len(keys)):
        if alive[number]:
            place = (keys[number] * _SPREAD) >> shift
            where, by = place >> np.uint64(2), (place & np.uint64(3)) * np.uint64(2)
            if (np.uint64(seen[where]) >> by) & np.uint64(3) > np.uint64(1):
                found[count] = number
                count += 1
