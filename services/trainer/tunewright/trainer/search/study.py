"""The trials in Optuna's journal file: what to try next, what to end early, what came of each. Knows no training.

The sampler is seeded anew for each trial, from the run's seed and the trial's number, and sees only what the journal
holds. So a search that was killed and goes on tries the same settings as one that never was.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from tunewright.trainer.search.space import Settings, first_settings, number_of_trials
from tunewright.trainer.spec import TrainingSpec

_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "ended early", TrialState.RUNNING: "running"}
_WHY = "why"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trial."""

    number: int
    """From 0."""
    settings: Settings
    state: str
    """complete, ended early or running."""
    eval_loss: float | None
    """Nats at its best evaluation, if it came to its end."""
    evaluations: list[tuple[int, float]]
    """Optimizer steps, nats."""
    why: str
    """Why it was ended early."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


class Study:
    """Trials of one run.

    Args:
        journal: Optuna's file; read if it is there.
        spec: the recipe's training section.
    """

    def __init__(self, journal: Path, spec: TrainingSpec) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._spec = spec
        self.count = number_of_trials(spec.search)
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="search",
            direction="minimize",
            pruner=MedianPruner(n_startup_trials=spec.search.startup_trials, n_warmup_steps=0),
            load_if_exists=True,
        )
        if not self._trials():
            for settings in first_settings(spec)[: self.count]:
                self._study.enqueue_trial(settings)

    def following(self) -> Trial | None:
        """Return the trial that is under way, else a new one; None if all were carried out."""
        begun = [trial for trial in self._trials() if trial.state is not TrialState.WAITING]
        running = [trial for trial in begun if trial.state is TrialState.RUNNING]
        if running:
            return Trial(self._study, running[0]._trial_id)  # noqa: SLF001 - Optuna has no other way back to it
        if len(begun) >= self.count:
            return None
        self._study.sampler = TPESampler(
            seed=(self._spec.seed + len(begun)) % 2**32, n_startup_trials=self._spec.search.startup_trials
        )
        return self._study.ask()

    def settings(self, trial: Trial) -> Settings:
        """Return what the trial is to be tried with; asked again, it is the same."""
        search, chosen = self._spec.search, Settings()
        if search.lora_r:
            chosen["lora_r"] = trial.suggest_categorical("lora_r", search.lora_r)
        if search.learning_rate:
            chosen["learning_rate"] = trial.suggest_float("learning_rate", *search.learning_rate, log=True)
        return chosen

    def reported(self, trial: Trial) -> dict[int, float]:
        """Return step → nats of the evaluations that are known."""
        return dict(self._trials()[trial.number].intermediate_values)

    def complete(self, trial: Trial, eval_loss: float) -> None:
        """Take a trial that came to its end."""
        self._study.tell(trial, eval_loss)

    def end_early(self, trial: Trial, why: str) -> None:
        """Take a trial that did not."""
        trial.set_user_attr(_WHY, why)
        self._study.tell(trial, state=TrialState.PRUNED)

    @property
    def best(self) -> Outcome | None:
        """The trial with the lowest loss of those that came to their end; the first of equals."""
        ended = [found for found in self.outcomes() if found.eval_loss is not None]
        return min(ended, key=lambda found: (found.eval_loss, found.number), default=None)

    def outcomes(self) -> Sequence[Outcome]:
        """Return all trials that were begun, in order."""
        return [_outcome(trial) for trial in self._trials() if trial.state is not TrialState.WAITING]

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


def _outcome(trial: FrozenTrial) -> Outcome:
    complete = trial.state is TrialState.COMPLETE
    return Outcome(
        number=trial.number,
        settings=dict(trial.params),
        state=_STATES[trial.state],
        eval_loss=trial.value if complete else None,
        evaluations=sorted(trial.intermediate_values.items()),
        why=str(trial.user_attrs.get(_WHY, "")),
    )
