"""Figures to an experiment tracker, by transformers' own callbacks: W&B, MLflow or trackio, if the operator names one.

The package is the operator's to install; where it reports to is said in its own variables (MLFLOW_TRACKING_URI,
WANDB_MODE, TRACKIO_DIR, …). Knows no figures.
"""

from importlib.util import find_spec
from typing import Any

from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from tunewright.chassis.errors import Refused
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


def add(trainer: Any, settings: TrainerSettings, run: str) -> None:  # noqa: ANN401 - transformers ships no types
    """Let the tracker hear of what is logged from here on, under this name; after `Watch`, which adds its figures."""
    if settings.report_to == "none":
        return
    trainer.args.run_name, trainer.args.project = run, _PROJECT
    for callback in get_reporting_integration_callbacks([settings.report_to]):  # type: ignore[no-untyped-call] # theirs
        trainer.add_callback(callback)
