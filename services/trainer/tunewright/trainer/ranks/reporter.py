"""The reporter in a process of several: rank 0 speaks through a pipe, the others are silent; all stop together.

Knows nothing of who hears it.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import Interrupted
from tunewright.chassis.stage import Severity
from tunewright.trainer.ranks.group import Group

Send = Callable[[dict[str, Any]], None]


class RankReporter:
    """Implements `tunewright.chassis.stage.Reporter`.

    Args:
        group: this process among all.
        checkpoints: folder of the run's checkpoints.
        runtime: facts of the run.
        send: takes messages, JSON values each.
        stop_wished: True once somebody wishes that the run stops.
    """

    def __init__(
        self, group: Group, checkpoints: Path, runtime: Mapping[str, Any], send: Send, stop_wished: Callable[[], bool]
    ) -> None:
        self._group = group
        self._checkpoints = checkpoints
        # The job's name is for what is written beside the reports, which rank 0 alone does.
        self._runtime = {name: value for name, value in runtime.items() if not (group.rank and name == "job_id")}
        self._send = send
        self._stop_wished = stop_wished

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's own checkpoints."""
        return self._checkpoints

    @property
    def runtime(self) -> Mapping[str, Any]:
        """Facts of this run."""
        return self._runtime

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Tell how far the run is."""
        self._tell(say="progress", step=step, total=total, unit=unit, figures=figures)

    def event(self, type_: str, message: str, *, severity: Severity = Severity.INFO, **data: Any) -> None:  # noqa: ANN401
        """Tell that something happened."""
        self._tell(say="event", type=type_, message=message, severity=severity.value, data=data)

    def checkpoint(self, directory: Path, step: int) -> None:
        """Hand over a complete checkpoint: as links, since this process goes on and prunes its own."""
        if self._group.rank:
            return
        handed = self._checkpoints / HANDED / f"{directory.name}.{os.urandom(4).hex()}"
        handed.mkdir(parents=True)
        for path in directory.iterdir():
            os.link(path, handed / path.name)
        self._tell(say="checkpoint", directory=str(handed), step=step)

    def stop_requested(self) -> bool:
        """Return True once the run should stop, in all processes at the same point: all of them must ask."""
        return self._group.any(self._stop_wished())

    def raise_if_stopped(self) -> None:
        """Raise Interrupted if the run should stop, in all processes."""
        if self.stop_requested():
            raise Interrupted("stopped before its end")

    def _tell(self, **message: Any) -> None:  # noqa: ANN401
        if not self._group.rank:
            self._send(message)


HANDED = ".handed"
"""Folder beside the checkpoints for those on their way."""
