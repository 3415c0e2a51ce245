"""Divides rows between training and validation by a keyed hash of their question. Knows rows by places only.

Rows with one question always land on one side, whatever their order, and a row added later moves no other row, save in
small sets, where the share is held between half of and twice what was asked.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

_PLACES = 1 << 64


def place(data: bytes, seed: int) -> int:
    """Return the place of a question (or a row) on the scale 0 to 2**64 - 1: BLAKE2b keyed with the seed."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big")


def held_out(places: Sequence[int], fraction: float) -> frozenset[int]:
    """Return the places to hold out; `places` has one entry a row, in any order, equal for rows that stay together.

    With two different places or more and a fraction above 0 neither side is ever empty. A question with more rows than
    twice the share is never held out, unless all are so.
    """
    sizes, total = Counter(places), len(places)
    if not fraction or len(sizes) < 2:  # noqa: PLR2004 - one group cannot be on two sides
        return frozenset()
    target = fraction * total
    least, most = max(1, math.floor(target / 2)), min(max(1, math.ceil(target * 2)), total - 1)
    chosen: set[int] = set()
    taken = 0
    for where, size in sorted(sizes.items()):
        if where >= fraction * _PLACES and taken >= least:
            break
        if taken + size <= most:
            chosen.add(where)
            taken += size
    if not chosen:
        chosen.add(min(sizes, key=lambda where: (sizes[where], where)))
    return frozenset(chosen)
