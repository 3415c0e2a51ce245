"""Bytes that a run leaves on disk. Knows no activations."""

from dataclasses import dataclass

from tunewright.trainer.planning.counting import trained
from tunewright.trainer.planning.shapes import Shape
from tunewright.trainer.spec import TrainingSpec


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes on disk."""

    artifact: int
    """The adapter in float32, or the whole model in bfloat16."""
    checkpoints: int
    """On the trainer's disk, as many as are kept, and the one that is being written."""
    merged: int
    """The merged model in bfloat16; 0 where nothing is merged."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.artifact + self.checkpoints + self.merged


def disk(shape: Shape, spec: TrainingSpec, *, evaluated: bool) -> Disk:
    """Return what a run takes; with held-out rows a checkpoint holds the best weights beside the newest."""
    parts = trained(shape, spec)
    once = 4 * parts.parameters * (2 if evaluated else 1) + parts.state_bytes(spec.optim)
    return Disk(
        artifact=2 * shape.parameters if spec.method == "full" else 4 * parts.parameters,
        checkpoints=(spec.save_total_limit + 1) * once,
        merged=2 * shape.parameters if spec.has_adapters else 0,
    )
