"""The figures of a run as TensorBoard's event files, beside what the job reports anyway. Not a part of any artifact."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard.writer import SummaryWriter

_SIDES = (("eval_", "held_out"), ("", "train"))


class Board:
    """Writes one job's figures; goes on in the same folder after a resume.

    Args:
        folder: the job's own; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None  # SummaryWriter has no types

    def begin(self, step: int) -> None:
        """Start after `step` optimizer steps: what an earlier process wrote of later ones is hidden."""
        self.close()
        purge = step + 1 if step else None
        self._writer = SummaryWriter(str(self._folder), purge_step=purge)

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Write figures of a step: chart by name, in it the training rows beside the held-out ones."""
        if self._writer is None:  # an evaluation before the first step
            self.begin(0)
        for name, value in figures.items():
            prefix, side = next(found for found in _SIDES if name.startswith(found[0]))
            self._writer.add_scalar(f"{name.removeprefix(prefix)}/{side}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
