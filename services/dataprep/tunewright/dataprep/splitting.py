"""Divides rows between training and validation by a keyed hash of their group. Knows rows by places only.

A group is all rows with one question, and what is linked to them as near-duplicates; or all rows with one value of a
field. Groups never lie on both sides, whatever the order of rows, and a row added later moves no other group than its
own, save in small sets, where the share is held between half of and twice what was asked. With strata that holds in
each stratum, and a stratum of few rows is trained on.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PLACES = 1 << 64


def place(data: bytes, seed: int) -> int:
    """Return the place of a question (or a row) on the scale 0 to 2**64 - 1: BLAKE2b keyed with the seed."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big")


def places(data: Sequence[bytes], seed: int) -> NDArray[np.uint64]:
    """Return the places of many."""
    keyed = hashlib.blake2b(digest_size=8, key=seed.to_bytes(8, "big"))
    digests = []
    for one in data:
        digest = keyed.copy()
        digest.update(one)
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def linked(places: NDArray[np.uint64], clusters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the place of each row's group: the least of all rows joined by an equal place or an equal cluster."""
    _, by_place = np.unique(places, return_inverse=True)
    _, by_cluster = np.unique(clusters, return_inverse=True)
    found = places.copy()
    while True:
        before = found
        for labels in (by_cluster, by_place):
            least = np.full(int(labels.max(initial=-1)) + 1, np.iinfo(np.uint64).max, np.uint64)
            np.minimum.at(least, labels, found)
            found = least[labels]
        if np.array_equal(before, found):
            return found


def held_out(
    places: NDArray[np.uint64] | Sequence[int], fraction: float, strata: NDArray[np.uint64] | None = None
) -> NDArray[np.bool_]:
    """Return True for the rows to hold out.

    With two different places or more and a fraction above 0 neither side is ever empty. A group with more rows than
    twice the share is never held out, unless all are so.

    Args:
        places: one entry a row, in any order, equal for rows that stay together.
        fraction: share to hold out.
        strata: one entry a row; the share is kept in each. A group goes with its least stratum.
    """
    unique, first, labels, sizes = np.unique(
        np.asarray(places, np.uint64), return_index=True, return_inverse=True, return_counts=True
    )
    if not fraction or len(unique) < 2:  # noqa: PLR2004 - one group cannot be on two sides
        return np.zeros(len(labels), np.bool_)
    if strata is None:
        chosen = _choose(unique, sizes, fraction, at_least=1)
    else:
        own = np.full(len(unique), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(own, labels, strata)
        chosen = np.zeros(len(unique), np.bool_)
        for stratum in np.unique(own):
            inside = np.flatnonzero(own == stratum)
            chosen[inside] = _choose(unique[inside], sizes[inside], fraction, at_least=0)
    del first
    if not chosen.any():
        chosen[np.lexsort((unique, sizes))[0]] = True
    return chosen[labels]


def _choose(
    places: NDArray[np.uint64], sizes: NDArray[np.int64], fraction: float, *, at_least: int
) -> NDArray[np.bool_]:
    """Choose groups by ascending place until the share is reached; `places` ascend."""
    total = int(sizes.sum())
    target = fraction * total
    least = max(at_least, math.floor(target / 2))
    most = min(max(at_least, math.ceil(target * 2)), total - 1)
    chosen = np.zeros(len(places), np.bool_)
    taken = 0
    for number in range(len(places)):
        where, size = int(places[number]), int(sizes[number])
        if where >= fraction * _PLACES and taken >= least:
            break
        if taken + size <= most:
            chosen[number] = True
            taken += size
    return chosen
