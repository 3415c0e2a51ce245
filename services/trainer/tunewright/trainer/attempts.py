"""Training as a bounded row of attempts: each goes on from the last good checkpoint, with what earlier ones taught.

An attempt builds model and trainer anew, as a resumed process does, so that nothing of a failed one stays in memory.
Which remedy follows which trouble stands in `remedies.py`. Knows no files but checkpoints.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch

from tunewright.chassis.errors import Interrupted
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer import checkpoints, remedies, troubles
from tunewright.trainer.checkpoints import Checkpoint
from tunewright.trainer.loop import Loop
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stability import Unstable
from tunewright.trainer.troubles import Trouble

_ROWS_NAMED = 20

Build = Callable[[TrainingSpec], Loop]


class Attempts:
    """Attempts at one run.

    Args:
        spec: what was asked for; remedies change a copy.
        build: returns a fresh trainer for a spec.
        fingerprint: of what the run must have in common with a checkpoint.
        report: hears what happened, what is tried, and says when to stop.
        mends: whether a remedy may be looked for; in a trial of a search only those that leave its settings alone.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        build: Build,
        fingerprint: str,
        report: Reporter,
        *,
        mends: Callable[[Trouble], bool] = lambda _: True,
    ) -> None:
        self._spec = spec
        self._build = build
        self._fingerprint = fingerprint
        self._report = report
        self._mends = mends
        self._taken: list[dict[str, Any]] | None = None

    def run(self) -> Loop:
        """Train to the end and return the trainer.

        Raises:
            Exception: what happened last, when no remedy is left for it.
        """
        while True:
            trainer = self._try()
            if trainer is not None:
                return trainer
            gc.collect()  # trainer and callbacks hold each other, and with them the model
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _try(self) -> Loop | None:
        """Return the trainer at its end, None if a remedy was found for what went wrong."""
        found = self._newest(tell=True)
        if self._taken is None:
            self._taken = found.state()["progress"]["remedies"] if found is not None else []
        trainer = None
        try:
            trainer = self._build(remedies.with_remedies(self._spec, self._taken))
            trainer.progress.remedies = list(self._taken)
            train(trainer, found, self._report)
        except Interrupted:
            raise
        except Exception as error:
            if trainer is None or not self._remedied(error, trainer, self._taken):
                raise
            return None
        return trainer

    def _remedied(self, error: Exception, trainer: Loop, taken: list[dict[str, Any]]) -> bool:
        """Look for a remedy, write it down where a killed run finds it, and tell; False if there is none."""
        trouble = troubles.recognise(error)
        spec = remedies.with_remedies(self._spec, taken)
        step = trainer.state.global_step
        if trouble is None or not self._mends(trouble):
            return False
        remedy = remedies.next_remedy(
            trouble,
            spec,
            taken,
            evaluating=trainer.evaluating,
            cuda=trainer.args.device.type == "cuda",
            begun=step > 0,
            fast_gb=trainer.fast.planned_gb if trainer.fast is not None else None,
        )
        if remedy is None:
            return False
        if trouble is troubles.DISK:
            checkpoints.clear(self._report.checkpoints)
        back = self._newest(tell=False)
        at = error.step if isinstance(error, Unstable) else step + 1
        entry = {"row": trouble.row, "action": remedy.action, "step": at, "settings": remedy.settings}
        taken.append(entry)
        self._write_down(back, taken)
        rows = error.rows if isinstance(error, Unstable) else ()
        after = back.step if back is not None else 0
        why = str(error).partition("\n")[0]
        self._report.event(
            "remedy",
            f"{trouble.row}: {trouble.what[0]} ({why}); tried: {remedy.tried[0]}; going on after step {after}. "
            f"{trouble.what[1]}；处理：{remedy.tried[1]}；从第 {after} 步之后继续。",
            severity=Severity.WARNING,
            **entry,
            going_on_after=after,
            rows=list(rows[:_ROWS_NAMED]),
            number=len(taken),
        )
        return True

    def _write_down(self, back: Checkpoint | None, taken: list[dict[str, Any]]) -> None:
        """Put the remedies into the checkpoint that the next attempt goes on from; the first one if there is none."""
        folder = self._report.checkpoints
        if back is None:
            saved = checkpoints.write_start(folder, self._fingerprint, {"remedies": taken})
        else:
            saved = checkpoints.amend(back, {"remedies": taken})
        self._report.checkpoint(saved.directory, saved.step)

    def _newest(self, *, tell: bool) -> Checkpoint | None:
        def passed_over(why: str) -> None:
            if tell:
                self._report.event("checkpoint_passed_over", why, severity=Severity.WARNING)

        return checkpoints.newest(self._report.checkpoints, self._fingerprint, passed_over)


def train(trainer: Loop, found: Checkpoint | None, report: Reporter) -> None:
    """Train to the end, from a checkpoint if there is one.

    Raises:
        Unstable: a loss or a weight is not a number, or a loss jumped.
        Interrupted: a stop was requested.
    """
    if found is not None and found.step == 0:
        trainer.take_up_start(found)
        found = None
    if found is not None:
        _go_on(trainer, found, report)
    elif trainer.eval_dataset is not None and trainer.progress.first_eval_loss is None:
        trainer.evaluate()
    done = found is not None and found.step >= trainer.last_step
    if not done and not trainer.progress.stopped_early:
        trainer.train(resume_from_checkpoint=str(found.directory) if found is not None else None)
        trainer.check_weights()


def _go_on(trainer: Loop, found: Checkpoint, report: Reporter) -> None:
    report.event("resume", f"going on after step {found.step}", step=found.step)
    trainer.take_up(found)
    if trainer.progress.evaluation_pending:
        trainer.evaluate()
