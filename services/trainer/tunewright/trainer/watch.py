"""Callbacks: figures to the reporter, the best adapter kept, early stopping, and a checkpoint when asked to stop.

Knows nothing of files.
"""

import time
from typing import Any

from transformers import TrainerCallback

from tunewright.chassis.stage import Severity
from tunewright.trainer import adapters
from tunewright.trainer.board import Board
from tunewright.trainer.device import Device
from tunewright.trainer.loop import Loop
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.utilisation import operations_a_token, utilisation

_FIGURES = {
    "loss": "loss",
    "eval_loss": "eval_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "mean_token_accuracy",
    "eval_mean_token_accuracy": "eval_mean_token_accuracy",
    "rewards/accuracies": "preference_accuracy",
    "rewards/margins": "preference_margin",
    "eval_rewards/accuracies": "eval_preference_accuracy",
}
"""Name of a figure in TRL's words → in ours."""


class Watch(TrainerCallback):
    """Tells what happens and keeps `trainer.progress`; transformers calls it."""

    def __init__(self, trainer: Loop, spec: TrainingSpec, device: Device, board: Board | None = None) -> None:
        self._trainer = trainer
        self._spec = spec
        self._device = device
        self._board = board
        self._begun = self._last = time.monotonic()
        self._first_step = 0
        self._tokens_told = trainer.progress.tokens
        self._evaluated = trainer.evaluation_seconds
        self._operations = operations_a_token(trainer.model, spec)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Start the clock, and take up the loss that was not reported before a resume."""
        self._trainer.take_up_unlogged_loss()
        self._begun = self._last = time.monotonic()
        self._first_step = state.global_step
        self._tokens_told = self._trainer.progress.tokens
        self._evaluated = self._trainer.evaluation_seconds
        if self._board is not None:
            self._board.begin(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Close what is written beside the job's reports."""
        if self._board is not None:
            self._board.close()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Collect the rows and the loss of the step."""
        self._trainer.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Look at the step's loss; ask for a checkpoint if the run shall stop, or ends before its schedule does."""
        self._trainer.end_step()
        if self._trainer.last_step <= state.global_step < args.max_steps:
            control.should_save = control.should_training_stop = True
        if self._trainer.report.stop_requested():
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """End the run after the checkpoint that `on_step_end` asked for."""
        self._trainer.report.raise_if_stopped()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Save and end in the middle of an evaluation, which is done over on a resume."""
        if self._trainer.report.stop_requested():
            if self._trainer.is_in_train:
                self._trainer.progress.evaluation_pending = True
                self._trainer.save_now()
            self._trainer.report.raise_if_stopped()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Tell the figures of a step or an evaluation."""
        logs = kwargs["logs"]
        figures = {ours: float(logs[name]) for name, ours in _FIGURES.items() if name in logs}
        if not figures:
            return
        if "loss" in figures:
            figures |= self._speed(state.global_step, args.max_steps)
        figures["memory_bytes"] = float(self._device.peak_bytes())
        entry = {"step": state.global_step, "epoch": state.epoch or 0.0, "time": time.time(), **figures}
        self._trainer.progress.history.append(entry)
        self._trainer.report.progress(state.global_step, args.max_steps, unit="steps", **figures)
        if self._board is not None:
            self._board.add(state.global_step, figures)
        logs.update({name: value for name, value in figures.items() if name not in logs})  # for trackers, called next

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Keep the best adapter; stop when evaluations stop improving."""
        progress, spec = self._trainer.progress, self._spec
        best = progress.note_evaluation(
            state.global_step,
            kwargs["metrics"]["eval_loss"],
            patience=spec.early_stopping_patience,
            threshold=spec.early_stopping_threshold,
        )
        if best:
            self._trainer.best_weights = adapters.copy_weights(self._trainer.model)
        if progress.overfits():
            self._trainer.report.event(
                "overfitting",
                f"the training loss goes on falling and the held-out loss rises since step {progress.best_step} (from "
                f"{progress.best_eval_loss:.4f} to {kwargs['metrics']['eval_loss']:.4f}): rows are learned by heart. "
                "What is kept is the best step. Fewer epochs, a lower learning_rate or lora_r, or more rows may help.",
                severity=Severity.WARNING,
                best_step=progress.best_step,
                best_eval_loss=progress.best_eval_loss,
                eval_loss=kwargs["metrics"]["eval_loss"],
            )
        if progress.stopped_early:
            control.should_training_stop = control.should_save = True
            self._trainer.report.event(
                "early_stop",
                f"stopped after step {state.global_step}: {spec.early_stopping_patience} evaluations in a row were no "
                f"better; the best was step {progress.best_step} with {progress.best_eval_loss:.4f}",
                severity=Severity.WARNING,
                best_step=progress.best_step,
                best_eval_loss=progress.best_eval_loss,
            )

    def _speed(self, step: int, steps: int) -> dict[str, float]:
        """Return tokens a second since the last report, and the seconds left at the mean speed of this process.

        An evaluation in between is no training; what is left takes as long as it did so far, evaluations included.
        """
        now, progress, evaluated = time.monotonic(), self._trainer.progress, self._trainer.evaluation_seconds
        passed = now - self._last - (evaluated - self._evaluated)
        tokens = progress.tokens - self._tokens_told
        progress.seconds += passed
        self._last, self._tokens_told, self._evaluated = now, progress.tokens, evaluated
        a_step = (now - self._begun) / max(1, step - self._first_step)
        figures = {"tokens_per_second": tokens / passed, "eta_seconds": a_step * (steps - step)}
        used = utilisation(self._operations, tokens / passed, self._device, self._trainer.group.size)
        return figures if used is None else {**figures, "model_flops_utilization": used}
