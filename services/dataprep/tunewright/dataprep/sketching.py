"""Sketches: k numbers for a set, equal in as many places as the sets are similar; and bands of them for LSH.

The sketch is Fast Similarity Sketching (S. Dahlgaard, M. Knudsen, M. Thorup, FOCS 2017, arXiv:1704.04370): each place
agrees with probability J as in MinHash with k permutations, the sum is concentrated at least as well, and a set of n
takes O(k log k + n) steps in place of k times n. In round i every element throws a number into one of k places (from
round k on all into place i - k); the least number of the earliest round stays; done when no place is empty.
Knows nothing of texts.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled, nth
from tunewright.dataprep.hashing import mix, windows

RECALL_WANTED = 0.995
"""Share of the pairs at the threshold itself that should meet in a band."""

_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUND = np.uint64(0x9E3779B97F4A7C15)
_SPREAD = np.uint64(0xBF58476D1CE4E5B9)
_BAND = np.uint64(0x94D049BB133111EB)


class Banding(NamedTuple):
    """How a sketch is cut for LSH."""

    bands: int
    rows: int
    """Places of the sketch in each band."""


def banding(permutations: int, threshold: float) -> Banding:
    """Return the widest bands that let RECALL_WANTED of the pairs at `threshold` meet: 1 - (1 - t^r)^(k/r)."""
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL_WANTED:
            return Banding(bands, rows)
    return Banding(permutations, 1)


def estimate_floor(permutations: int, threshold: float) -> int:
    """Return the places that pairs at `threshold` share at the least: four standard deviations below the mean."""
    deviation = math.sqrt(threshold * (1 - threshold) / permutations)
    return max(0, math.floor(permutations * (threshold - 4 * deviation)))


@compiled
def band_keys(
    tokens: NDArray[np.uint64],
    ends: NDArray[np.int64],
    salts: NDArray[np.uint64],
    alone: NDArray[np.uint64],
    shingle: int,
    permutations: int,
    bands: int,
    rows: int,
) -> NDArray[np.uint64]:
    """Return n × bands keys for rows of tokens; only rows with one salt meet, and rows without tokens by `alone`."""
    keys = np.empty((len(ends), bands), np.uint64)
    longest, start = 1, 0
    for row in range(len(ends)):
        longest = max(longest, ends[row] - start)
        start = ends[row]
    shingles, places = np.empty(longest, np.uint64), np.empty(permutations, np.uint64)
    start = 0
    for row in range(len(ends)):
        count = windows(tokens, start, ends[row], shingle, shingles, 0)
        start = ends[row]
        sketch(shingles, 0, count, places)
        for band in range(bands):
            key = salts[row] ^ np.uint64(band)
            for place in range(band * rows, band * rows + rows):
                key = (key ^ places[nth(place)]) * _BAND
                key ^= key >> _HALF
            keys[row, band] = key
        if count == 0:
            keys[row, :] = mix(alone[row])
    return keys


@compiled
def sketch(values: NDArray[np.uint64], start: int, end: int, places: NDArray[np.uint64]) -> None:
    """Fill `places` with the sketch of the set of `values` from `start` to `end` (repeats do not matter)."""
    size = len(places)
    places[:] = _EMPTY
    if start == end:
        return
    empty, wide = size, np.uint64(size)
    for turn in range(2 * size):
        factor, high = (np.uint64(2 * turn + 1) * _ROUND) | np.uint64(1), np.uint64(turn) << _HALF
        for at in range(start, end):
            number = (values[nth(at)] ^ (values[nth(at)] >> _HALF)) * factor
            number = (number ^ (number >> _HALF)) * _SPREAD
            place = ((number >> _HALF) * wide) >> _HALF if turn < size else np.uint64(turn - size)
            number = high | (number & _LOW)
            least = places[nth(place)]
            empty -= least == _EMPTY
            places[nth(place)] = min(least, number)
        if empty == 0:
            return
