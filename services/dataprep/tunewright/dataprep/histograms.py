"""Histograms of lengths on one logarithmic scale, ten bars a factor of ten (Renard's R10), so that any two compare.

Counts can be added up over blocks. Knows no rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DECADE = (10, 12, 16, 20, 25, 32, 40, 50, 63, 80)
EDGES = np.array([*range(1, 9), *(value * 10**power for power in range(8) for value in _DECADE)], np.int64)
"""Bar 0 counts zeros, bar i lengths from EDGES[i - 1] up to below EDGES[i]."""
BARS = len(EDGES) + 1


def bars(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many of the lengths fall into each bar."""
    places = np.searchsorted(EDGES, lengths.astype(np.int64), side="right")
    return np.bincount(places, minlength=BARS).astype(np.int64)


def summary(lengths: NDArray[Any], before: NDArray[np.int64] | None, unit: str) -> dict[str, Any]:
    """Return quantiles of the lengths and their histogram, beside that of all rows as they came, if it is known.

    Bar i of `counts` (kept rows) and of `before` counts lengths from edges[i] up to below edges[i + 1].
    """
    ordered, after = np.sort(lengths), bars(lengths)
    every = after if before is None else after + before
    used = np.flatnonzero(every)
    first, last = int(used[0]), int(used[-1])
    edges = [0, *EDGES.tolist(), int(EDGES[-1]) * 10]
    result = {
        "unit": unit,
        "min": int(ordered[0]),
        "p10": _quantile(ordered, 0.1),
        "median": _quantile(ordered, 0.5),
        "p90": _quantile(ordered, 0.9),
        "max": int(ordered[-1]),
        "edges": edges[first : last + 2],
        "counts": after[first : last + 1].tolist(),
    }
    return result if before is None else {**result, "before": before[first : last + 1].tolist()}


def _quantile(ordered: NDArray[Any], share: float) -> int:
    return int(ordered[min(len(ordered) - 1, int(share * len(ordered)))])
