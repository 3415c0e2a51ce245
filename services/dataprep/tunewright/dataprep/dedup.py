"""Keeps the best of the rows that say the same. Knows rows by number, identity and quality only.

The rule: the row that cleaning changed least; then the richest in form (most different characters: capitals,
punctuation and line breaks kept); then the smallest digest of its text, so that the order of rows does not matter; of
rows equal to the last character, the first.
"""

from array import array
from collections.abc import Sequence

KEEP_RULE = "least changed by cleaning, then richest in form, then a fixed order"

_KEY_BYTES = 16
"""128 bits of the identity: among a billion rows two different ones meet with a chance of 1e-21."""


def quality(changes: int, texts: Sequence[str], digest: bytes) -> int:
    """Return the worth of a row among its equals, 0 to 2**64 - 1, greater is better."""
    form = min(len(set().union(*texts)), 0xFFFF)
    return (255 - min(changes, 255)) << 56 | form << 40 | int.from_bytes(digest[:5], "big") ^ 0xFFFFFFFFFF


class Duplicates:
    """Finds the best row of each identity while rows stream by; about 200 bytes a row."""

    def __init__(self) -> None:
        self._best: dict[bytes, int] = {}
        self._quality = array("Q")
        self._dropped: dict[int, bytes] = {}

    def add(self, identity: bytes, worth: int) -> None:
        """Take the next row; rows are numbered from 0 in the order of the calls."""
        number = len(self._quality)
        self._quality.append(worth)
        key = identity[:_KEY_BYTES]
        best = self._best.setdefault(key, number)
        if best == number:
            return
        if worth > self._quality[best]:
            self._best[key], number = number, best
        self._dropped[number] = key

    def kept_instead(self) -> dict[int, int]:
        """Return dropped row → the row that is kept in its place, in order of the dropped row's number."""
        return {number: self._best[self._dropped[number]] for number in sorted(self._dropped)}
