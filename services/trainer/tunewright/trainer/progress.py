"""What a run has seen so far: losses, best evaluation, patience. Plain figures, saved in every checkpoint.

Knows no model and no library.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from tunewright.chassis.errors import Refused


@dataclass(slots=True)
class RunProgress:
    """Figures of one run, across all processes that had a part in it."""

    history: list[dict[str, float]] = field(default_factory=list)
    """One entry a report: step, epoch, time (Unix seconds), then figures by name."""
    first_eval_loss: float | None = None
    """Nats per answer token on the held-out rows before training."""
    best_eval_loss: float | None = None
    best_step: int | None = None
    evaluations_without_improvement: int = 0
    stopped_early: bool = False
    evaluation_pending: bool = False
    """True in a checkpoint that was saved in the middle of an evaluation: it is done over on a resume."""
    tokens: int = 0
    """Tokens trained on, padding not counted."""
    seconds: float = 0.0
    """Spent in training steps and evaluations."""

    def note_evaluation(self, step: int, loss: float, *, patience: int, threshold: float) -> bool:
        """Take in an evaluation after `step` optimizer steps; return True if it is the best so far.

        Sets `stopped_early` when `patience` evaluations (0: never) brought no improvement by `threshold` nats.
        The untrained adapter is measured but never counts as the best: it would be the base itself.

        Raises:
            Refused: the loss is not a number.
        """
        if not math.isfinite(loss):
            when = f"after {step} steps" if step else "before any training: the base itself computes no numbers"
            raise Refused(f"the loss on the held-out rows is {loss} {when}", remedy=NAN_REMEDY)
        self.evaluation_pending = False
        if step == 0:
            self.first_eval_loss = loss
            return False
        best = self.best_eval_loss
        improved = best is None or loss < best - threshold
        self.evaluations_without_improvement = 0 if improved else self.evaluations_without_improvement + 1
        self.stopped_early = bool(patience) and self.evaluations_without_improvement >= patience
        if best is not None and loss >= best:
            return False
        self.best_eval_loss, self.best_step = loss, step
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `RunProgress(**values)` is the inverse."""
        return dataclasses.asdict(self)


NAN_REMEDY = "Lower learning_rate (5e-5) and max_grad_norm (0.5), and look at the rows named."
