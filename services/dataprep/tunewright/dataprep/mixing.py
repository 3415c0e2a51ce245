"""How many rows of each source are trained on, so that sources stand in the ratio asked for. Knows rows by number.

Of a source that has too many rows those with the least keyed hash are taken, so that rows added later replace few; one
that has too few is repeated: every row equally often, and the rest of the way the rows with the least hash once more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.chassis.errors import InvalidData


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a source has and gives."""

    source: str
    weight: float
    available: int
    """Rows."""
    taken: int
    """Rows, repeats counted."""

    @property
    def used(self) -> int:
        """Rows that are taken at least once."""
        return min(self.available, self.taken)


def plan(
    available: Mapping[str, int], weights: Mapping[str, float], *, total_rows: int, max_repeats: int
) -> list[Share]:
    """Return what each source gives; the counts add up to the total exactly, by largest remainders.

    Args:
        available: source → rows it has.
        weights: source → its weight, above 0; any scale.
        total_rows: rows wanted in all; 0 stands for as many as no row need stand more than `max_repeats` times for.
        max_repeats: how often a row may stand in the result.

    Raises:
        InvalidData: a source has too few rows.
    """
    scale = sum(weights.values())
    shares = {name: weight / scale for name, weight in weights.items()}
    if empty := [name for name in shares if not available[name]]:
        raise InvalidData(
            f"source {empty[0]} has weight {weights[empty[0]]:g}, but none of its rows is left to train on",
            remedy="See the report for why its rows were dropped, or remove its weight.",
        )
    total = total_rows or int(min(available[name] * max_repeats / share for name, share in shares.items()) + 1e-9)
    wanted = _rounded(shares, total)
    for name, count in wanted.items():
        if count > available[name] * max_repeats:
            raise InvalidData(
                f"source {name} must give {count:,} of {total:,} rows; it has {available[name]:,}, and "
                f"mixing.max_repeats allows each to stand {max_repeats} times",
                remedy="Lower mixing.total_rows or the source's weight, or raise mixing.max_repeats.",
            )
    return [Share(source=name, weight=weights[name], available=available[name], taken=wanted[name]) for name in shares]


def copies(shares: Sequence[Share], sources: NDArray[np.int64], order: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how often each row stands in the result.

    Args:
        shares: by the number of the source.
        sources: number of each row's source; -1 for rows that are no candidates.
        order: keyed hash of each row: the least are taken first.
    """
    found = np.zeros(len(sources), np.int64)
    for number, share in enumerate(shares):
        rows = np.flatnonzero(sources == number)
        whole, rest = divmod(share.taken, share.available)
        found[rows] = whole
        found[rows[np.argsort(order[rows], kind="stable")[:rest]]] += 1
    return found


def _rounded(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Return whole numbers in these shares that add up to the total; ties go to the earlier name."""
    exact = {name: share * total for name, share in shares.items()}
    found = {name: int(value) for name, value in exact.items()}
    left = total - sum(found.values())
    for name in sorted(exact, key=lambda name: (found[name] - exact[name], name))[:left]:
        found[name] += 1
    return found
