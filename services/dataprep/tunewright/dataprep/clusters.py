"""From pairs of similar rows to clusters, and to the rows that are kept. Knows rows by number and worth.

A cluster is all that is linked by pairs, directly or over others. In it the rows are gone through from the best to the
worst, and a row is dropped if it is similar to one that was kept: so what is dropped always has a kept twin, and a long
chain of small differences does not swallow its far end. The best is the worthiest; of equal worth the first.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled


@dataclass(frozen=True, slots=True)
class Groups:
    """What became of n rows."""

    kept_instead: NDArray[np.int64]
    """n; number of the row that is kept in this one's place, its own if it is kept itself."""
    cluster: NDArray[np.int64]
    """n; number of the best row of its cluster, its own if it is alone."""
    similarity: NDArray[np.float32]
    """n; similarity of a dropped row to the one kept in its place, 0 to 1; 1 for kept rows."""
    stats: dict[str, int] = field(default_factory=dict)
    """How much was compared."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Similar rows, each pair once: the worse and the better."""

    worse: NDArray[np.int64]
    better: NDArray[np.int64]
    similarity: NDArray[np.float32]


def group(pairs: Pairs, worth: NDArray[np.uint64], stats: dict[str, int]) -> Groups:
    """Return the clusters of rows 0 to len(worth) - 1 and the rows kept of each."""
    count = len(worth)
    kept_instead, cluster = np.arange(count), np.arange(count)
    similarity = np.ones(count, np.float32)
    order = np.argsort(pairs.worse, kind="stable")
    worse, better = pairs.worse[order], pairs.better[order]
    firsts = np.flatnonzero(np.diff(worse, prepend=-1))
    by_worth = np.argsort(_ranks(worse[firsts], worth))
    stops = np.append(firsts, len(worse))
    _keep_best(worse, better, pairs.similarity[order], firsts[by_worth], stops[by_worth + 1], worth, kept_instead,
               similarity)  # fmt: skip
    _link(worse, better, worth, cluster)
    return Groups(kept_instead, cluster, similarity, stats)


def _ranks(rows: NDArray[np.int64], worth: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the rank of each row among these, 0 for the best."""
    rank = np.empty(len(rows), np.int64)
    rank[np.lexsort((rows, ~worth[rows]))] = np.arange(len(rows))
    return rank


def joined(one: NDArray[np.int64], other: NDArray[np.int64], worth: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the clusters of what lies together by either; each gives for n rows the number of its cluster's best."""
    rows = np.arange(len(worth))
    cluster = rows.copy()
    _link(np.concatenate([rows, rows]), np.concatenate([one, other]), worth, cluster)
    return cluster


def warm_clusters() -> None:
    """Compile what is compiled."""
    one = np.array([1])
    group(Pairs(one, one - 1, np.ones(1, np.float32)), np.zeros(2, np.uint64), {})


@compiled
def is_better(one: int, other: int, worth: NDArray[np.uint64]) -> bool:
    """Return True if row `one` is to be kept rather than row `other`."""
    return worth[one] > worth[other] or (worth[one] == worth[other] and one < other)


@compiled
def _keep_best(
    worse: NDArray[np.int64],
    better: NDArray[np.int64],
    likeness: NDArray[np.float32],
    starts: NDArray[np.int64],
    stops: NDArray[np.int64],
    worth: NDArray[np.uint64],
    kept_instead: NDArray[np.int64],
    similarity: NDArray[np.float32],
) -> None:
    for index in range(len(starts)):
        row, best = worse[starts[index]], -1
        for at in range(starts[index], stops[index]):
            twin = better[at]
            if kept_instead[twin] == twin and (best < 0 or is_better(twin, best, worth)):
                best = twin
                similarity[row] = likeness[at]
        if best >= 0:
            kept_instead[row] = best


@compiled
def _link(
    worse: NDArray[np.int64], better: NDArray[np.int64], worth: NDArray[np.uint64], cluster: NDArray[np.int64]
) -> None:
    for at in range(len(worse)):
        one, other = _root(cluster, worse[at]), _root(cluster, better[at])
        if one != other:
            if is_better(one, other, worth):
                cluster[other] = one
            else:
                cluster[one] = other
    for row in range(len(cluster)):
        cluster[row] = _root(cluster, row)


@compiled
def _root(cluster: NDArray[np.int64], row: int) -> int:
    while cluster[row] != row:
        cluster[row] = cluster[cluster[row]]
        row = cluster[row]
    return row
