"""Hashes of single numbers and of windows of them, in compiled loops. Knows nothing of what is hashed."""

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled

_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_WINDOW = np.uint64(0xD6E8FEB86659FD93)
"""Odd base of the windows' polynomial hash."""


@compiled
def mix(value: np.uint64) -> np.uint64:
    """Return the value with its bits mixed (the finaliser of MurmurHash3, public domain, Austin Appleby)."""
    value = (value ^ (value >> _SHIFT)) * _MIX_1
    value = (value ^ (value >> _SHIFT)) * _MIX_2
    return value ^ (value >> _SHIFT)


@compiled
def windows(hashes: NDArray[np.uint64], start: int, end: int, shingle: int, out: NDArray[np.uint64], used: int) -> int:
    """Write the hashes of all windows over the tokens `start` to `end`; of fewer tokens than a window, one for all."""
    if end == start:
        return used
    leaving, power = np.uint64(1), min(shingle, end - start)
    for _ in range(power):
        leaving *= _WINDOW
    rolling = np.uint64(0)
    for at in range(start, end):
        rolling = rolling * _WINDOW + hashes[at]
        if at - start >= power:
            rolling -= hashes[at - power] * leaving
        if at - start >= power - 1:
            out[used] = mix(rolling)
            used += 1
    return used
