"""Figures to an experiment tracker, by transformers' own callbacks: W&B, MLflow or trackio, if the operator names one.

The package is the operator's to install; where it reports to is said in its own variables (MLFLOW_TRACKING_URI,
WANDB_MODE, TRACKIO_DIR, …). Knows no figures.
"""

from importlib.util import find_spec
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from tunewright.chassis.errors import Refused
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer.settings import TrainerSettings

_PROJECT = "tunewright"


def check(settings: TrainerSettings) -> None:
    """Look whether the tracker that the settings name is there.

    Raises:
        Refused: its package is not installed.
    """
    name = settings.report_to
    if name != "none" and find_spec(name) is None:
        raise Refused(
            f"TUNEWRIGHT_REPORT_TO is {name}, and the package {name} is not installed where the trainer runs",
            remedy=f"Install it there (pip install {name}), or leave TUNEWRIGHT_REPORT_TO out.",
        )


def add(trainer: Any, settings: TrainerSettings, run: str, report: Reporter) -> None:  # noqa: ANN401 - transformers ships no types
    """Let the tracker hear of what is logged from here on, under this name; after `Watch`, which adds its figures.

    A tracker that fails hears no more, which `report` is told: no run ends for it.
    """
    if settings.report_to == "none":
        return
    trainer.args.run_name, trainer.args.project = run, _PROJECT
    for callback in get_reporting_integration_callbacks([settings.report_to]):  # type: ignore[no-untyped-call] # theirs
        trainer.add_callback(Guarded(callback(), settings.report_to, report))


class Guarded(TrainerCallback):
    """A tracker's callback, up to its first failure: a server that is gone, a store that it takes no more."""

    def __init__(self, callback: TrainerCallback, name: str, report: Reporter) -> None:
        self._callback: TrainerCallback | None = callback
        self._name = name
        self._report = report

    def hear(self, event: str, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - transformers' own
        """Hand an event on."""
        if self._callback is None:
            return
        try:
            getattr(self._callback, event)(*arguments, **named)
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises is told, and of no consequence
            self._callback = None
            why = f"{type(error).__name__}: {error}".partition("\n")[0]
            text = f"{self._name} fails and hears no more of this run, which goes on ({why})"
            self._report.event("tracker", text, severity=Severity.WARNING, tracker=self._name, event=event)


def _handing_on(event: str) -> Any:  # noqa: ANN401 - a method
    def method(self: Guarded, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - transformers' own
        self.hear(event, *arguments, **named)

    return method


for _event in (name for name in dir(TrainerCallback) if name.startswith("on_")):
    setattr(Guarded, _event, _handing_on(_event))
