"""Keeps the best of the rows that say the same. Knows rows by number, identity and quality only.

The rule: the row that cleaning changed least; then the richest in form (most different characters: capitals,
punctuation and line breaks kept); then the smallest digest of its text, so that the order of rows does not matter; of
rows equal to the last character, the first.
"""

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.repeats import repeated

KEEP_RULE = "least changed by cleaning, then richest in form, then a fixed order"

_ORDER_BYTES = 5


def worth(changes: NDArray[np.uint8], distinct: NDArray[np.uint16], digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the worth of n rows among their equals, greater is better.

    Args:
        changes: rules of cleaning that changed the row, 255 at most.
        distinct: different characters of its texts.
        digests: n × 32; a digest of its texts to the last character.
    """
    order = np.zeros(len(changes), np.uint64)
    for column in range(_ORDER_BYTES):
        order = (order << np.uint64(8)) | digests[:, column]
    first: NDArray[np.uint64] = (np.uint64(255) - changes.astype(np.uint64)) << np.uint64(56)
    form = distinct.astype(np.uint64) << np.uint64(40)
    total: NDArray[np.uint64] = first | form | (order ^ np.uint64(0xFFFFFFFFFF))
    return total


def why_better(kept: int, dropped: int) -> str:
    """Return in words why a row of one worth is kept rather than one of another."""
    changes, others = 255 - (kept >> 56), 255 - (dropped >> 56)
    if changes != others:
        return f"changed by {_rules(others)} of cleaning, the kept row by {changes or 'none'}"
    form, other_form = (kept >> 40) & 0xFFFF, (dropped >> 40) & 0xFFFF
    if form != other_form:
        return f"{other_form:,} different characters, the kept row has {form:,}"
    return "as good in form; a fixed order decides"


def _rules(count: int) -> str:
    return "1 rule" if count == 1 else f"{count} rules"


def find_exact(keys: NDArray[np.uint64], worth: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each row the number of the row kept in its place, its own if it is kept.

    Args:
        keys: n × 2; the first 128 bits of the identity: among a billion rows two different ones meet with a chance of
            1e-21.
        worth: n; of equal worth the first row is kept.
    """
    kept = np.arange(len(keys))
    if not len(keys):
        return kept
    rows = repeated(np.ascontiguousarray(keys[:, 0]), np.ones(len(keys), np.bool_))
    order = rows[np.lexsort((rows, ~worth[rows], keys[rows, 1], keys[rows, 0]))]
    new = np.ones(len(order), np.bool_)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    bests = order[new]
    kept[order] = bests[np.cumsum(new) - 1]
    return kept
