"""Hashes of single numbers and of windows of them, in compiled loops. Knows nothing of what is hashed."""

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled, nth

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
        rolling = rolling * _WINDOW + hashes[nth(at)]
        if at - start >= power:
            rolling -= hashes[nth(at - power)] * leaving
        if at - start >= power - 1:
            out[nth(used)] = mix(rolling)
            used += 1
    return used


@compiled
def sort_set(values: NDArray[np.uint64], start: int, end: int, spare: NDArray[np.uint64]) -> int:
    """Sort the hashes from `start` to `end` in place, each once; return where they end now.

    Hashes lie evenly over their range, so each goes at once to about its place, and few are moved after that. `spare`
    has room for as many.
    """
    count = end - start
    bits = 1
    while (1 << bits) < count:
        bits += 1
    shift = np.uint64(64 - bits)
    firsts = np.zeros((1 << bits) + 1, np.int64)
    for at in range(start, end):
        spare[at - start] = values[at]
        firsts[np.int64(values[at] >> shift) + 1] += 1
    for bucket in range(1 << bits):
        firsts[bucket + 1] += firsts[bucket]
    for at in range(count):
        number = np.int64(spare[at] >> shift)
        values[start + firsts[number]] = spare[at]
        firsts[number] += 1
    used = start
    for at in range(start, end):
        value, place = values[at], used
        while place > start and values[place - 1] > value:
            place -= 1
        if place > start and values[place - 1] == value:
            continue
        for moved in range(used, place, -1):
            values[moved] = values[moved - 1]
        values[place] = value
        used += 1
    return used
