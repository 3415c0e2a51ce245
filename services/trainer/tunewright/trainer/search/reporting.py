"""What a trial, and the run after them, tells: progress over the whole search, checkpoints in a folder of its own.

Knows no study.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.chassis.stage import Reporter, Severity


@dataclass
class PartReporter:
    """Implements `stage.Reporter` for one part of a search; all but progress and checkpoints goes through."""

    outer: Reporter
    checkpoints: Path
    """Of this part alone."""
    name: str
    """Of the part, for what is written beside the job's reports."""
    number: int
    """Trials before this one; the run after them has the number of the last, as it goes on from one of them."""
    parts: int
    """Trials in all."""
    keep: Callable[[int], None]
    """Called with the step over all parts when a checkpoint is to be kept."""
    keeps_all: bool
    """Whether each checkpoint is kept, or only one that is written because the run shall stop."""
    steps: int = 0
    """Optimizer steps of a trial; known once a trainer is built."""

    def __post_init__(self) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    @property
    def runtime(self) -> Mapping[str, Any]:
        """Facts of the run, and the part's name."""
        return {**self.outer.runtime, "part": self.name}

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Tell how far the whole search is; what is left is counted at this part's speed."""
        done, whole = self._overall(step), self._overall(total, last=True)
        if total > step and "eta_seconds" in figures:
            figures["eta_seconds"] *= (whole - done) / (total - step)
        self.outer.progress(done, whole, unit=unit, **figures)

    def event(self, type_: str, message: str, *, severity: Severity = Severity.INFO, **data: Any) -> None:  # noqa: ANN401
        """Tell that something happened, and in which part."""
        self.outer.event(type_, f"{self.name}: {message}", severity=severity, **data)

    def checkpoint(self, directory: Path, step: int) -> None:
        """Keep the state of the search, with this checkpoint in it, where that is wanted."""
        del directory  # what is kept is the folder it lies in
        if self.keeps_all or self.outer.stop_requested():
            self.keep(self._overall(step))

    def stop_requested(self) -> bool:
        """Return True once the stage should save and end."""
        return self.outer.stop_requested()

    def raise_if_stopped(self) -> None:
        """Raise Interrupted if a stop was requested."""
        self.outer.raise_if_stopped()

    def _overall(self, step: int, *, last: bool = False) -> int:
        return (self.parts - 1 if last else self.number) * self.steps + step
