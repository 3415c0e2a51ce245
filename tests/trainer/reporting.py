"""A reporter that keeps what a stage says, for tests and for the subprocess that gets killed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import Interrupted
from tunewright.chassis.stage import Severity


@dataclass
class Recorder:
    """Implements `tunewright.chassis.stage.Reporter`."""

    checkpoints: Path
    runtime: Mapping[str, Any] = field(default_factory=dict)
    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    steps: list[dict[str, float]] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    on_checkpoint: Callable[[int], None] = lambda _: None
    on_progress: Callable[[int], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        self.steps.append({"step": step, "total": total, **figures})
        assert unit == "steps"
        self.on_progress(step)

    def event(self, type_: str, message: str, *, severity: Severity = Severity.INFO, **data: Any) -> None:  # noqa: ANN401
        self.events.append((type_, message, {"severity": severity, **data}))

    def checkpoint(self, directory: Path, step: int) -> None:
        assert (directory / "checkpoint.json").is_file()
        self.saved.append(step)
        self.on_checkpoint(step)

    def stop_requested(self) -> bool:
        return self.stop()

    def raise_if_stopped(self) -> None:
        if self.stop():
            raise Interrupted("stopped before its end")

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        return [data for kind, _, data in self.events if kind == type_]
