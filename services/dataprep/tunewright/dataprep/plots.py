"""Geometry of the report's plots, in the units of their view boxes: a histogram, a bar of parts. Knows no HTML."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, BASE, TOP = 560, 196, 158, 24
_LEAST_PERCENT = 0.35
"""Percent of the whole bar that the smallest part takes, so that it can be seen."""


def histogram(lengths: Mapping[str, Any]) -> dict[str, Any]:
    """Return bars of kept rows, an outline of the rows as they came, ticks and the median's place."""
    counts, edges = lengths["counts"], lengths["edges"]
    before = lengths.get("before") or []
    peak = max([*counts, *before])
    step = WIDTH / len(counts)
    bars = [
        {
            "x": round(index * step + 0.75, 2),
            "width": round(max(step - 1.5, 0.5), 2),
            "height": round((BASE - TOP) * count / peak, 2),
            "y": round(BASE - (BASE - TOP) * count / peak, 2),
            "low": edges[index],
            "high": edges[index + 1] - 1,
            "count": count,
            "before": before[index] if before else None,
        }
        for index, count in enumerate(counts)
    ]
    every = max(1, len(counts) // 8)
    return {
        "unit": lengths["unit"],
        "bars": bars,
        "outline": _outline(before, peak, step),
        "ticks": [{"x": round(i * step, 2), "text": short(edges[i])} for i in range(0, len(counts), every)],
        "median": round(_position(lengths["median"], edges) * step, 2),
        "lengths": lengths,
        "peak": peak,
        "width": WIDTH,
        "height": HEIGHT,
        "base": BASE,
        "top": TOP,
    }


def stack(parts: Sequence[tuple[str, int]], total: int) -> list[dict[str, Any]]:
    """Return (name, count) as shares of one bar, percent; tiny parts are drawn a little wider, at the first one's cost.

    The counts add up to the total; a part's own share is `percent`, what is drawn is `width`.
    """
    widths = [max(_LEAST_PERCENT, 100 * count / total) if count else 0.0 for _, count in parts]
    scale = 100 / sum(widths)
    return [
        {"name": name, "count": count, "percent": 100 * count / total, "width": round(width * scale, 3)}
        for (name, count), width in zip(parts, widths, strict=True)
    ]


def short(value: int) -> str:
    """Return a number for an axis, such as `1.6k`."""
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return str(value)


def _outline(before: Sequence[int], peak: int, step: float) -> str:
    """Return the steps of a histogram as the points of a polyline."""
    heights = [round(BASE - (BASE - TOP) * count / peak, 2) for count in before]
    edges = [round(index * step, 2) for index in range(len(before) + 1)]
    tops = [f"{edges[i]},{y} {edges[i + 1]},{y}" for i, y in enumerate(heights)]
    return " ".join([f"0,{BASE}", *tops, f"{WIDTH},{BASE}"]) if tops else ""


def _position(value: int, edges: Sequence[int]) -> float:
    """Return where a value lies among the edges, in bars."""
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        if value < high:
            return index + (value - low) / (high - low)
    return len(edges) - 1
