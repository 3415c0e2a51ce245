"""What the trainer reads from the environment beside what every service does."""

from pathlib import Path

from tunewright.chassis.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """Settings of the service and of its stage, which inherits the environment."""

    tensorboard_dir: Path | None = None
    """Folder for TensorBoard's event files, one folder a job below it; none are written without."""
