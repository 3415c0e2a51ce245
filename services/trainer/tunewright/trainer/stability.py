"""Whether a run is still learning: losses that are no numbers, and losses that jump. Plain figures.

Knows no model, no library and no remedy (`remedies.py`).
"""

import math
import statistics
from collections.abc import Sequence

WINDOW = 32
"""Optimizer steps whose losses a new one is compared with."""
ROLLBACKS = 3
"""Times a run goes back to a checkpoint; jumps after that are told and passed over, losses without number end it."""
_FEWEST = 8
_FACTOR = 3.0
_NATS = 1.0


class Unstable(Exception):
    """The run cannot go on from here: a loss is not a number, or far above all before it.

    Args:
        kind: `not_a_number` or `spike`.
        step: the optimizer step whose rows are named.
        loss: what was measured, in nats.
        rows: places of the rows of that step.
        where: words for people: `in the rows`, `on the held-out rows`.
    """

    def __init__(self, kind: str, step: int, loss: float, rows: Sequence[str], where: str) -> None:
        super().__init__(f"the loss is {loss:.6g} in step {step}, {where}")
        self.kind = kind
        self.step = step
        self.loss = loss
        self.rows = tuple(rows)
        self.where = where


def is_spike(recent: Sequence[float], loss: float) -> bool:
    """Return True if the loss of a step lies far above those of the `recent` ones.

    Far: above three times their median and one nat more, so that neither a run that knows its rows by heart (0.01
    nats) nor a hard row among easy ones counts. Nothing is said before eight steps are known.
    """
    if len(recent) < _FEWEST:
        return False
    return math.isfinite(loss) and loss > _FACTOR * statistics.median(recent) + _NATS
