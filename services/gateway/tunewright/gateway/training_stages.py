"""Trainings of a recipe, one after the other, each with its own data and settings; a recipe without `stages` has one.

Knows no YAML and no room.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from tunewright.artifacts import ArtifactRef
from tunewright.v1 import training_pb2

STAGE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?")
_SHAPE = ("method", "lora_r", "lora_alpha", "target_modules", "use_dora", "use_rslora", "modules_to_save")
"""Settings that make an adapter what it is: one with others cannot be trained further (the trainer's start.py)."""
_ADAPTERS = {"", "qlora", "lora"}


@dataclass(frozen=True, kw_only=True)
class TrainingStage:
    """One training."""

    name: str
    """Empty in a recipe without `stages`."""
    uploads: tuple[ArtifactRef, ...]
    dataprep: Message
    training: training_pb2.TrainingSpec
    data_key: str = field(default="data", compare=False)
    """Path of its files in the recipe: `data`, also where several stages share it, or `stages[1].data`."""

    def called(self, step: str) -> str:
        """Return the name of one of its steps in the run: `train`, or `train:sft`."""
        return f"{step}:{self.name}" if self.name else step


def goes_on(before: TrainingStage, after: TrainingStage) -> bool:
    """Return True if a stage trains the adapter of the one before further; else it starts on that one's model.

    The settings must be written alike: what the trainer takes for one that is left out is its own knowledge.
    """
    first, second = before.training, after.training
    searched = bool(first.search.lora_r or second.search.lora_r)
    alike = all(_written(first, name) == _written(second, name) for name in _SHAPE)
    return first.method in _ADAPTERS and alike and not searched


def over(common: Message, own: Message) -> Message:
    """Return `own` with the fields of `common` that it does not set."""
    merged = type(own)()
    merged.CopyFrom(common)
    for descriptor, _ in own.ListFields():
        merged.ClearField(descriptor.name)  # what is repeated would be added up
    merged.MergeFrom(own)
    return merged


def _written(spec: training_pb2.TrainingSpec, name: str) -> Any:  # noqa: ANN401 - any field's value
    value = getattr(spec, name)
    if spec.DESCRIPTOR.fields_by_name[name].is_repeated:
        return sorted(value)
    return value if spec.HasField(name) else None
