"""What the trainer reads from the environment beside what every service does."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from tunewright.chassis.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """Settings of the service and of its stage, which inherits the environment."""

    ray_address: str = ""
    """Ray cluster for `launcher: ray`: host:port of its GCS; a Ray node runs on this machine too. Empty: that launcher
    is refused."""
    tensorboard_dir: Path | None = None
    """Folder for TensorBoard's event files, one folder a job below it; none are written without."""
    rank_patience_seconds: float = Field(default=900.0, ge=1, le=86_400)
    """How long a process of several waits for another before the run takes that one for frozen and starts all again:
    more than the slowest checkpoint takes to write."""
    report_to: Literal["none", "mlflow", "trackio", "wandb"] = "none"
    """Experiment tracker that hears of the figures too; its package must be installed where the trainer runs, and reads
    its own variables."""
