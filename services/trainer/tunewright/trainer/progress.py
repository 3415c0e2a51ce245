"""What a run has seen so far: losses, best evaluation, patience. Plain figures, saved in every checkpoint.

Knows no model and no library.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from tunewright.chassis.errors import Refused
from tunewright.trainer.stability import ROLLBACKS, WINDOW, Unstable

_RISES = 2
"""Evaluations in a row that must be worse than the best."""
_WORSE = 1.01


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
    overfits_since: int | None = None
    """Best step of a run that went on to learn its rows by heart: see `overfits`."""
    evaluation_pending: bool = False
    """True in a checkpoint that was saved in the middle of an evaluation: it is done over on a resume."""
    tokens: int = 0
    """Tokens trained on, padding not counted."""
    seconds: float = 0.0
    """Spent in training; evaluations are not counted."""
    recent_losses: list[float] = field(default_factory=list)
    """Of the newest optimizer steps, nats: what a jump is measured against."""
    remedies: list[dict[str, Any]] = field(default_factory=list)
    """What was tried after failures: row of the error table, action, step, settings changed."""

    def note_step(self, loss: float) -> None:
        """Take in the loss of an optimizer step."""
        self.recent_losses = [*self.recent_losses, loss][-WINDOW:]

    def passes_spike(self, step: int) -> bool:
        """Return True if a jump in this step is the rows' own: it led to a rollback before, or enough others did."""
        steps = [entry["step"] for entry in self.remedies if entry["action"] == "roll_back"]
        return step in steps or len(steps) >= ROLLBACKS

    def note_evaluation(self, step: int, loss: float, *, patience: int, threshold: float) -> bool:
        """Take in an evaluation after `step` optimizer steps; return True if it is the best so far.

        Sets `stopped_early` when `patience` evaluations (0: never) brought no improvement by `threshold` nats.
        The untrained adapter is measured but never counts as the best: it would be the base itself.

        Raises:
            Refused: the loss is not a number before any training.
            Unstable: it is not a number after some.
        """
        if not math.isfinite(loss):
            if step:
                raise Unstable("not_a_number", step, loss, (), "on the held-out rows")
            why = "before any training: the base itself computes no numbers"
            raise Refused(f"the loss on the held-out rows is {loss} {why}", remedy=NAN_REMEDY)
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

    def overfits(self) -> bool:
        """Return True once, when the held-out loss keeps rising from its best while the training loss keeps falling.

        Rising: the newest two evaluations are both worse than the best, the newest by more than 1 % of it. Falling: the
        mean training loss reported after the best step is below that of as many reports before it.
        """
        if self.overfits_since is not None or self.best_step is None or self.best_eval_loss is None:
            return False
        later = [
            entry["eval_loss"] for entry in self.history if "eval_loss" in entry and entry["step"] > self.best_step
        ]
        if (
            len(later) < _RISES
            or min(later[-_RISES:]) <= self.best_eval_loss
            or later[-1] <= self.best_eval_loss * _WORSE
        ):
            return False
        after = [entry["loss"] for entry in self.history if "loss" in entry and entry["step"] > self.best_step]
        before = [entry["loss"] for entry in self.history if "loss" in entry and entry["step"] <= self.best_step]
        before = before[-len(after) :] if after else []
        if not after or not before or sum(after) / len(after) >= sum(before) / len(before):
            return False
        self.overfits_since = self.best_step
        return True

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `RunProgress(**values)` is the inverse."""
        return dataclasses.asdict(self)


NAN_REMEDY = "Lower learning_rate (5e-5) and max_grad_norm (0.5), and look at the rows named."
