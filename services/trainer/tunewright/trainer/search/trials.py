"""Trials one after the other, then the run itself, which goes on from the best of them.

What is kept after each trial, at a stop, and with each checkpoint of the run is one bundle: Optuna's journal and the
newest checkpoints of what is under way. A search that is killed goes on from the newest bundle; of a trial that was
killed under way, nothing is left, and it is done over with the same settings.

    <checkpoints>/checkpoint-<step over all parts>/   journal.log, and of these what there is:
        trial/checkpoint-<step>/   the trial that was stopped
        best/checkpoint-<step>/    the end of the best trial so far
        run/checkpoint-<step>/     the run after the trials
"""

import gc
import math
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from optuna.trial import Trial
from transformers import TrainerCallback

from tunewright.chassis.errors import Interrupted, InvalidSpec, Refused, Violation
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer import checkpoints, troubles
from tunewright.trainer.attempts import Attempts
from tunewright.trainer.loop import Loop
from tunewright.trainer.search.reporting import PartReporter
from tunewright.trainer.search.space import TRIAL_SHARE, with_settings, words
from tunewright.trainer.search.study import Study
from tunewright.trainer.spec import TrainingSpec

_JOURNAL = "journal.log"
_ENDS_A_TRIAL = ("E1", "E6")
"""Rows of the error table that end a trial and not the search: out of memory at a high rank, NaN at a high rate."""

Build = Callable[[TrainingSpec, Reporter, str], Loop]
"""Returns a trainer for a spec, that tells a reporter, with a fingerprint for its checkpoints."""


class Search:
    """The trials of one run, and the run.

    Args:
        spec: the recipe's training section.
        build: returns a trainer with a fresh adapter.
        fingerprint: of what the run of a spec has in common with its checkpoints.
        report: of the job.
    """

    def __init__(
        self, spec: TrainingSpec, build: Build, fingerprint: Callable[[TrainingSpec], str], report: Reporter
    ) -> None:
        self._spec = spec
        self._build = build
        self._fingerprint = fingerprint
        self._report = report
        self._folder = report.checkpoints / "search"
        self._trial_steps = 0
        self._restore()
        self.study = Study(self._folder / _JOURNAL, spec)

    def run(self) -> Loop:
        """Carry out what is left of the trials and of the run; return its trainer at its end.

        Raises:
            InvalidSpec: a trial would end before its first evaluation.
            Refused: no trial came to its end.
            Interrupted: a stop was requested.
        """
        while (trial := self.study.following()) is not None:
            self._carry_out(trial)
            gc.collect()  # trainer and callbacks hold each other, and with them the adapter
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        best = self.study.best
        if best is None:
            came = "; ".join(f"{words(found.settings)}: {found.why}" for found in self.study.outcomes())
            raise Refused(
                f"no trial came to its end: {came}",
                remedy="Search lower learning rates or ranks.",
            )
        if checkpoints.latest(self._folder / "run") is None:
            self._report.event(
                "search",
                f"the best of {self.study.count} trials is number {best.number + 1}: {words(best.settings)}, held-out "
                f"loss {best.eval_loss:.4f}; the run goes on from it",
                settings=best.settings,
                eval_loss=best.eval_loss,
                trials=self.study.count,
            )
            (self._folder / "best").rename(self._folder / "run")
        chosen = with_settings(self._spec, best.settings)
        heard = self._reporter("run", self.study.count - 1, "run", keeps_all=True)
        mark = self._fingerprint(chosen)

        def build(wanted: TrainingSpec) -> Loop:
            trainer = self._build(wanted, heard, mark)
            heard.steps = self._steps(trainer)
            return trainer

        return Attempts(chosen, build, mark, heard).run()

    def _carry_out(self, trial: Trial) -> None:
        settings = self.study.settings(trial)
        heard = self._reporter("trial", trial.number, f"trial {trial.number + 1}", keeps_all=False)
        why = self._train(trial, with_settings(self._spec, settings), heard)
        outcome = self.study.outcomes()[trial.number]
        best = self.study.best
        if outcome.eval_loss is not None and best is not None and best.number == trial.number:
            shutil.rmtree(self._folder / "best", ignore_errors=True)
            (self._folder / "trial").rename(self._folder / "best")
        shutil.rmtree(self._folder / "trial", ignore_errors=True)
        self._keep_after(trial)
        came = f"held-out loss {outcome.eval_loss:.4f}" if outcome.eval_loss is not None else f"ended early, {why}"
        self._report.event(
            "trial",
            f"trial {trial.number + 1} of {self.study.count}: {words(settings)}: {came}",
            severity=Severity.INFO if outcome.eval_loss is not None else Severity.WARNING,
            **outcome.to_json(),
            trials=self.study.count,
            best=best.number if best is not None else None,
        )

    def _train(self, trial: Trial, wanted: TrainingSpec, heard: PartReporter) -> str:
        """Train a trial to its end and tell the study; return why it was ended early, if it was."""
        mark = self._fingerprint(wanted)
        watch = _Pruning(trial, self.study.reported(trial))

        def build(mended: TrainingSpec) -> Loop:
            """Return a fresh trainer of this trial, watched by the study."""
            trainer = self._build(mended, heard, mark)
            trainer.last_step = heard.steps = watch.last_step = self._trial_steps = self._steps(trainer)
            trainer.add_callback(watch)
            watch.raise_if_worse()
            return trainer

        why = ""
        try:
            trainer = Attempts(wanted, build, mark, heard, mends=lambda trouble: trouble.row != "E6").run()
        except Interrupted:
            raise
        except _WorseError:
            why = watch.why
        except Exception as error:
            trouble = troubles.recognise(error)
            if trouble is None or trouble.row not in _ENDS_A_TRIAL:
                raise
            why = f"{trouble.what[0]} ({str(error).partition(chr(10))[0]})"
        else:
            why = watch.why
            if not why and trainer.progress.best_eval_loss is not None:
                self.study.complete(trial, trainer.progress.best_eval_loss)
        if why:
            self.study.end_early(trial, why)
        return why

    def _steps(self, trainer: Loop) -> int:
        """Return the optimizer steps of a trial: up to an evaluation, of which there must be one."""
        whole, every = int(trainer.args.max_steps), int(trainer.args.eval_steps or 0)
        if trainer.eval_dataset is None or every > whole:
            why = "trials are judged by the held-out loss, and "
            why += "there are no held-out rows" if trainer.eval_dataset is None else "the run has no evaluation in it"
            raise InvalidSpec(
                f"search: {why}",
                remedy="Hold rows out (dataprep.split.validation_fraction), with eval_steps below the run's steps.",
                violations=[Violation("search", why)],
            )
        wanted = self._spec.search.max_steps or whole / TRIAL_SHARE
        return min(whole // every * every, math.ceil(wanted / every) * every)

    def _reporter(self, folder: str, number: int, name: str, *, keeps_all: bool) -> PartReporter:
        return PartReporter(
            outer=self._report,
            checkpoints=self._folder / folder,
            name=name,
            number=number,
            parts=self.study.count,
            keep=self._keep,
            keeps_all=keeps_all,
        )

    def _keep_after(self, trial: Trial) -> None:
        """Keep the state after a trial, also after one that ended before anybody could count its steps."""
        newest = checkpoints.latest(self._report.checkpoints)
        number = (trial.number + 1) * self._trial_steps
        self._keep(max(number, newest.step + 1 if newest is not None and not self._trial_steps else number, 1))

    def _keep(self, number: int) -> None:
        """Write a bundle of everything that is needed to go on from here."""
        found = {name: checkpoints.latest(self._folder / name) for name in ("trial", "best", "run")}
        parts = {f"{name}/{held.directory.name}": held.directory for name, held in found.items() if held is not None}
        parts[_JOURNAL] = self._folder / _JOURNAL
        saved = checkpoints.write_bundle(self._report.checkpoints, number, self._fingerprint(self._spec), parts)
        self._report.checkpoint(saved.directory, number)
        checkpoints.prune(self._report.checkpoints, self._spec.save_total_limit)

    def _restore(self) -> None:
        """Begin with what the newest bundle holds, and nothing else."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        found = checkpoints.newest(self._report.checkpoints, self._fingerprint(self._spec), self._passed_over)
        if found is None:
            return
        for name in ("trial", "best", "run"):
            if (found.directory / name).is_dir():
                shutil.copytree(found.directory / name, self._folder / name, copy_function=os.link)
        shutil.copyfile(found.directory / _JOURNAL, self._folder / _JOURNAL)

    def _passed_over(self, why: str) -> None:
        self._report.event("checkpoint_passed_over", why, severity=Severity.WARNING)


class _WorseError(Exception):
    """A trial that goes on was found worse than the median before it was stopped."""


class _Pruning(TrainerCallback):
    """Tells the study of evaluations, and ends a trial that is worse than the median."""

    def __init__(self, trial: Trial, reported: dict[int, float]) -> None:
        self._trial = trial
        self._reported = reported
        self.why = ""
        self.last_step = 0

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002
        """Take an evaluation after some training; transformers calls it."""
        step, loss = int(state.global_step), float(kwargs["metrics"]["eval_loss"])
        if not step or step in self._reported:
            return
        self._reported[step] = loss
        self._trial.report(loss, step)
        if self._is_worse():
            control.should_training_stop = True

    def raise_if_worse(self) -> None:
        """End a trial whose newest evaluation was told to the study, and whose run was stopped before it could end.

        Raises:
            _WorseError: it is worse than the median.
        """
        if self._is_worse():
            raise _WorseError

    def _is_worse(self) -> bool:
        step = max(self._reported, default=0)
        if not 0 < step < self.last_step or not self._trial.should_prune():
            return False
        self.why = f"worse than the median of earlier trials after {step} steps ({self._reported[step]:.4f})"
        return True
