"""Runs of tokens that are learnt in a label mask. Knows no tokenizer."""

from collections.abc import Sequence
from itertools import pairwise


def runs(mask: Sequence[bool]) -> list[tuple[int, int]]:
    """Return the first and last position of each run of marked tokens."""
    edges = list(pairwise([False, *mask, False]))
    firsts = [at for at, (before, here) in enumerate(edges) if here and not before]
    return list(zip(firsts, [at - 1 for at, (before, here) in enumerate(edges) if before and not here], strict=True))


def unmark(mask: list[bool], inside: Sequence[bool]) -> None:
    """Unmark each run of which anything is inside."""
    for first, last in runs(mask):
        if any(inside[first : last + 1]):
            mask[first : last + 1] = [False] * (last + 1 - first)
