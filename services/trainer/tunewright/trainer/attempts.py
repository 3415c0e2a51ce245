"""Training as a bounded row of attempts: each goes on from the last good checkpoint, with what earlier ones taught.

An attempt builds model and trainer anew, as a resumed process does, so that nothing of a failed one stays in memory.
Of several processes one may fail alone, in the middle of what all do together: there an attempt is one life of all
processes, and whoever started them takes the remedy (`ranks/launching.py`).
Which remedy follows which trouble stands in `remedies.py`. Knows no files but checkpoints.
"""

import gc
from collections.abc import Callable
from typing import Any

import torch

from tunewright.chassis.errors import Internal, Interrupted
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer import checkpoints, remedies, troubles
from tunewright.trainer.checkpoints import Checkpoint
from tunewright.trainer.loop import Loop
from tunewright.trainer.ranks import group
from tunewright.trainer.ranks.sharing import shared
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stability import Unstable
from tunewright.trainer.troubles import Trouble

_ROWS_NAMED = 20

Build = Callable[[TrainingSpec], Loop]
Found = dict[str, Any]
"""A remedy as JSON: entry (what is kept of it), what, tried, why (words), rows, clear (older checkpoints go)."""


class TryAgain(Exception):
    """All processes are to be started again, with a remedy."""

    def __init__(self, found: Found, fingerprint: str) -> None:
        super().__init__(found["why"])
        self.found = found
        self.fingerprint = fingerprint


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
        self._group = group.current()

    def run(self) -> Loop:
        """Train to the end and return the trainer.

        Raises:
            TryAgain: this is one of several processes, and a remedy was found.
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
        found = self._newest()
        if self._taken is None:
            self._taken = found.state()["progress"]["remedies"] if found is not None else []
        spec = shared(remedies.with_remedies(self._spec, self._taken), self._group.size)
        trainer = None
        try:
            trainer = self._build(spec)
            trainer.progress.remedies = list(self._taken)
            train(trainer, found, self._report)
        except Interrupted:
            raise
        except Exception as error:
            remedy = self._remedy(error, trainer, spec) if trainer is not None else None
            if remedy is None:
                raise
            if self._group.size > 1:
                raise TryAgain(remedy, self._fingerprint) from error
            self._taken.append(remedy["entry"])
            take(remedy, self._taken, self._fingerprint, self._report)
            return None
        return trainer

    def _remedy(self, error: Exception, trainer: Loop, spec: TrainingSpec) -> Found | None:
        """Look for a remedy; None if there is none."""
        trouble = troubles.recognise(error)
        step = trainer.state.global_step
        if trouble is None or not self._mends(trouble):
            return None
        plan = trainer.fast.plan.describe() if trainer.fast is not None else ""
        remedy = remedies.next_remedy(
            trouble,
            spec,
            self._taken or [],
            evaluating=trainer.evaluating,
            cuda=trainer.args.device.type == "cuda",
            begun=step > 0,
            fast_gb=trainer.fast.planned_gb if trainer.fast is not None else None,
            fast_plan=plan,
            processes=self._group.size,
        )
        if remedy is None:
            return None
        at = error.step if isinstance(error, Unstable) else step + 1
        return {
            "entry": {"row": trouble.row, "action": remedy.action, "step": at, "settings": remedy.settings}
            | ({"plan": plan} if plan else {}),
            "what": list(trouble.what),
            "tried": list(remedy.tried),
            "why": str(error).partition("\n")[0],
            "rows": list(error.rows[:_ROWS_NAMED]) if isinstance(error, Unstable) else [],
            "clear": trouble is troubles.DISK,
        }

    def _newest(self) -> Checkpoint | None:
        def passed_over(why: str) -> None:
            self._report.event("checkpoint_passed_over", why, severity=Severity.WARNING)

        found = checkpoints.newest(self._report.checkpoints, self._fingerprint, passed_over)
        steps = self._group.gather(found.step if found is not None else None)
        if steps.count(steps[0]) != len(steps):
            raise Internal(f"the processes of the run would go on from different checkpoints: after steps {steps}")
        return found


def take(found: Found, taken: list[dict[str, Any]], fingerprint: str, report: Reporter) -> None:
    """Write a remedy down where a killed run finds it, and tell.

    Args:
        found: the remedy.
        taken: all of the run's, this one the last.
        fingerprint: of the run.
        report: has the checkpoints.
    """
    if found["clear"]:
        checkpoints.clear(report.checkpoints)
    back = checkpoints.newest(report.checkpoints, fingerprint, lambda _: None)
    _write_down(back, taken, fingerprint, report)
    after = back.step if back is not None else 0
    entry, what, tried = found["entry"], found["what"], found["tried"]
    report.event(
        "remedy",
        f"{entry['row']}: {what[0]} ({found['why']}); tried: {tried[0]}; going on after step {after}. "
        f"{what[1]}；处理：{tried[1]}；从第 {after} 步之后继续。",
        severity=Severity.WARNING,
        **entry,
        going_on_after=after,
        rows=found["rows"],
        number=len(taken),
    )


def _write_down(back: Checkpoint | None, taken: list[dict[str, Any]], fingerprint: str, report: Reporter) -> None:
    """Put the remedies into the checkpoint that the next attempt goes on from; the first one if there is none."""
    if back is None:
        saved = checkpoints.write_start(report.checkpoints, fingerprint, {"remedies": taken})
    else:
        saved = checkpoints.amend(back, {"remedies": taken})
    report.checkpoint(saved.directory, saved.step)


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
