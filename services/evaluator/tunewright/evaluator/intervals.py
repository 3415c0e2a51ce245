"""Confidence intervals by the paired bootstrap over rows, with a fixed seed. Knows nothing of what is measured.

Rows are drawn with replacement, base and tuned together, so that a row that is hard for both cancels out of the
difference. 95 % of the redrawn figures lie between the 2.5th and 97.5th percentile (Efron's percentile interval).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_SEED = 20_240_601
_PERCENTILES = (2.5, 97.5)
_BLOCK = 100

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Paired:
    """One measure of both models."""

    base: Interval
    tuned: Interval
    difference: Interval
    """tuned - base."""

    @property
    def shown(self) -> bool:
        """True if the interval of the difference does not hold 0."""
        return self.difference.low > 0 or self.difference.high < 0


def paired(base: list[float], tuned: list[float], weights: list[float]) -> Paired:
    """Return a measure that is a sum over rows divided by the sum of the rows' weights.

    Args:
        base: each row's sum for the base model, such as nats.
        tuned: the same for the tuned model.
        weights: what the sums are over, such as answer tokens; ones for a plain mean.
    """
    values = np.array([base, tuned], dtype=np.float64)
    weight = np.array(weights, dtype=np.float64)
    point = values.sum(axis=1) / weight.sum()
    drawn = _redraw(values, weight)
    return Paired(
        _interval(point[0], drawn[0]),
        _interval(point[1], drawn[1]),
        _interval(point[1] - point[0], drawn[1] - drawn[0]),
    )


def _redraw(values: Floats, weight: Floats) -> Floats:
    """Return both figures for each resample, shape 2 × resamples; in blocks, so that memory stays small."""
    random = np.random.default_rng(_SEED)
    rows = len(weight)
    blocks = []
    for _ in range(_RESAMPLES // _BLOCK):
        counts = random.multinomial(rows, np.full(rows, 1 / rows), size=_BLOCK).astype(np.float64)
        blocks.append((values @ counts.T) / (weight @ counts.T))
    return np.concatenate(blocks, axis=1)


def _interval(point: float, drawn: Floats) -> Interval:
    low, high = np.percentile(drawn, _PERCENTILES)
    return Interval(float(point), float(low), float(high))
