"""Tiny real stages behind the rooms' protos: they count slowly, and fail when a recipe asks for it."""

import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidData, Violation
from tunewright.chassis.spec import Spec
from tunewright.chassis.stage import Reporter, Stage

BROKEN_SEED = 13


class Split(Spec):
    """Like dataprep's."""

    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)


class Audit(Spec):
    """Like dataprep's."""

    max_length: int = 1024


class Source(Spec):
    """Like dataprep's."""

    use: str = "train"


class PrepareSpec(Spec):
    """Like dataprep's, as far as these tests need it."""

    seed: int = 0
    split: Split = Split()
    audit: Audit = Audit()
    format: str = "auto"
    max_invalid_fraction: float = 0.2
    sources: tuple[Source, ...] = ()
    cleaning: dict[str, bool | str] = Field(default_factory=dict)
    filters: dict[str, bool | int] = Field(default_factory=dict)
    pii: dict[str, str] = Field(default_factory=dict)
    duplicates: dict[str, bool] = Field(default_factory=dict)


class TrainSpec(Spec):
    """Like the trainer's."""

    method: str = "qlora"
    objective: str = "sft"
    max_steps: int = Field(default=2, ge=1)
    num_train_epochs: float = 3.0
    per_device_train_batch_size: int = 2
    gradient_accumulation_steps: int = 8
    beta: float = 0.1
    max_length: int = Field(default=1024, ge=8)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    lora_r: int = Field(default=16, ge=1)
    seed: int = 0


class MergeSpec(Spec):
    """Like the merger's."""

    probe_count: int = Field(default=4, ge=1)


class ImportSpec(Spec):
    """Like the merger's."""

    source: str = Field(min_length=1)
    revision: str = ""


class EvaluationSpec(Spec):
    """Like the evaluator's."""

    max_rows: int = Field(default=8, ge=0)


def prepare(spec: PrepareSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Copy the uploads' lines."""
    lines = [line for folder in inputs.values() for path in sorted(folder.iterdir()) for line in path.open()]
    if spec.seed == BROKEN_SEED:
        found = [Violation("rows.jsonl:1", "no answer")]
        raise InvalidData("rows.jsonl:1: no answer", remedy="Give the row an answer.", violations=found)
    report.progress(len(lines), len(lines), unit="rows")
    (output_dir / "train.jsonl").write_text("".join(lines))
    (output_dir / "report.html").write_text("<!doctype html><title>report</title><p>rows</p>")
    return Manifest(kind=Kind.DATASET, created_by="dataprep", spec=spec.canonical(), metrics={"rows_in": len(lines)})


def train(spec: TrainSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Count steps of a tenth of a second."""
    for step in range(1, spec.max_steps + 1):
        time.sleep(0.1)
        report.progress(step, spec.max_steps, unit="steps", loss=1 / step, eta_seconds=0.1 * (spec.max_steps - step))
        report.raise_if_stopped()
    _keep_weights(report, spec.max_steps)
    kind = Kind.MODEL if spec.method == "full" else Kind.ADAPTER
    made = _made(kind, "trainer", spec, inputs, output_dir)
    return made.model_copy(update={"metrics": {"tokens": 100 * spec.max_steps}})


def _keep_weights(report: Reporter, step: int) -> None:
    """Leave a checkpoint as the trainer does."""
    folder = report.checkpoints / f"checkpoint-{step}"
    folder.mkdir(exist_ok=True)
    header = json.dumps({"layer.lora_A.default.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    (folder / "trained.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"\0" * 4)
    report.checkpoint(folder, step)


def merge(spec: MergeSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Keep the names of what went in."""
    report.progress(1, 1, unit="models")
    return _made(Kind.MODEL, "merger", spec, inputs, output_dir)


def bring_in(spec: ImportSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Write the source's name."""
    report.progress(1, 1, unit="files")
    return _made(Kind.MODEL, "merger", spec, inputs, output_dir)


def evaluate(spec: EvaluationSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Keep where the models answered, in the log, as the address is not part of the identity."""
    (output_dir / "logs").mkdir()
    (output_dir / "logs" / "targets.json").write_text(json.dumps(dict(report.runtime)))
    return _made(Kind.REPORT, "evaluator", spec, inputs, output_dir)


def _made(kind: Kind, service: str, spec: Spec, inputs: Mapping[str, Path], output_dir: Path) -> Manifest:
    (output_dir / "made.json").write_text(json.dumps({"spec": spec.canonical(), "inputs": sorted(inputs)}))
    return Manifest(kind=kind, created_by=service, spec=spec.canonical())


PREPARE = Stage(service="dataprep", function="tests.gateway.stages:prepare", spec=PrepareSpec)
TRAIN = Stage(service="trainer", function="tests.gateway.stages:train", spec=TrainSpec)
MERGE = Stage(service="merger", function="tests.gateway.stages:merge", spec=MergeSpec)
IMPORT = Stage(service="merger", function="tests.gateway.stages:bring_in", spec=ImportSpec)
EVALUATE = Stage(service="evaluator", function="tests.gateway.stages:evaluate", spec=EvaluationSpec)
