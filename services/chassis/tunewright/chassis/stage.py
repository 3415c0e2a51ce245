"""What a stage is: a function from local paths to local paths, and the reporter through which it speaks.

    run(spec, inputs, output_dir, report) -> Manifest (a draft: no files, no parents)

Knows no transport and no store. The chassis runs it in a child process (`child.py`) or alone (`alone.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tunewright.artifacts import Manifest
from tunewright.chassis.spec import Spec


class Severity(StrEnum):
    """How much an event matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Reporter(Protocol):
    """How a stage tells what it does, and hears that it should stop."""

    @property
    def checkpoints(self) -> Path:
        """Folder for the stage's own checkpoints, `checkpoint-<step>` each; holds the newest valid one on a resume."""

    @property
    def runtime(self) -> Mapping[str, Any]:
        """Facts of this very run that are not part of the job's identity, such as an endpoint's address.

        `manifests` holds input name → manifest (as a mapping) of the artifacts in `inputs`, when a service runs it.
        """

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Tell that `step` of `total` units are done, with figures such as loss, tokens_per_second, eta_seconds."""

    def event(self, type_: str, message: str, *, severity: Severity = Severity.INFO, **data: Any) -> None:  # noqa: ANN401
        """Tell that something happened; `type_` is lower_snake_case, `data` holds JSON values."""

    def checkpoint(self, directory: Path, step: int) -> None:
        """Tell that `directory` is a complete checkpoint after `step` steps; it is saved in the background.

        The files are hard-linked at once, so the stage may prune its own copy afterwards.
        """

    def stop_requested(self) -> bool:
        """Return True once the stage should save what it has and call `raise_if_stopped`."""

    def raise_if_stopped(self) -> None:
        """Raise Interrupted if a stop was requested."""


SpecT_contra = TypeVar("SpecT_contra", bound=Spec, contravariant=True)


class StageFunction(Protocol[SpecT_contra]):
    """The function itself."""

    def __call__(self, spec: SpecT_contra, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
        """Read `inputs` (name → folder of an artifact's files), write to `output_dir`, return the draft manifest."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where a stage's code and spec are found, without importing them: the server must never import torch."""

    service: str
    """dataprep, trainer, merger, evaluator."""
    function: str
    """`package.module:function`, imported in the child only."""
    spec: type[Spec]
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Input name → shell patterns of the only files that the stage reads of it; all files of inputs not named here. A
    tokenizer is read without the gigabytes of weights that lie beside it."""
    keeps: tuple[str, ...] = ()
    """Folders beside the output that a later attempt finds as they were when this one's process was killed."""
