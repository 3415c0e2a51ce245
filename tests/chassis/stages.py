"""A small real stage: counts, one checkpoint a step, misbehaves on request. Runs in a child like any other."""

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidData, Violation
from tunewright.chassis.spec import Spec
from tunewright.chassis.stage import Reporter, Stage


class CountSpec(Spec):
    """What to count, and how to misbehave."""

    steps: int = 3
    step_seconds: float = 0.02
    fail_at: int | None = None
    """Step at which the data turn out to be wrong."""
    die_once_at: int | None = None
    """Step at which the process kills itself, unless it was resumed from a checkpoint."""
    always_die: bool = False
    ignore_stop: bool = False
    output_bytes: int = 0
    """Size of a further file in the output."""


def count(spec: CountSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Write the numbers up to `steps`, one a step, going on after the newest checkpoint."""
    saved = sorted(report.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    numbers: list[int] = json.loads((saved[-1] / "numbers.json").read_text()) if saved else []
    resumed = bool(saved)
    kept = output_dir.with_name("output.kept")
    found = (kept / "note").exists()
    kept.mkdir(exist_ok=True)
    (kept / "note").write_text("of an earlier attempt")
    for step in range(len(numbers) + 1, spec.steps + 1):
        _misbehave(spec, step, resumed=resumed)
        time.sleep(spec.step_seconds)
        numbers.append(step)
        _save(report, numbers)
        report.progress(step, spec.steps, unit="steps", loss=1 / step)
        if not spec.ignore_stop:
            report.raise_if_stopped()
    words = [file.read_text() for folder in inputs.values() for file in sorted(folder.iterdir())]
    (output_dir / "numbers.json").write_text(json.dumps({"numbers": numbers, "inputs": words}))
    with (output_dir / "ballast").open("wb") as file:
        for _ in range(spec.output_bytes >> 20):
            file.write(bytes(1 << 20))
    (output_dir / "logs").mkdir()
    (output_dir / "logs" / "times.txt").write_text(str(time.time()))
    return Manifest(kind=Kind.REPORT, created_by="counter", metrics={"resumed": resumed, "found_kept": found})


def _misbehave(spec: CountSpec, step: int, *, resumed: bool) -> None:
    if spec.fail_at == step:
        violation = Violation("numbers.txt:7:value", "not a number")
        raise InvalidData("numbers.txt:7: not a number", remedy="Write a number.", violations=[violation])
    if spec.always_die or (spec.die_once_at == step and not resumed):
        os.kill(os.getpid(), signal.SIGKILL)


def _save(report: Reporter, numbers: list[int]) -> None:
    folder = report.checkpoints / f"checkpoint-{len(numbers)}"
    folder.mkdir()
    (folder / "numbers.json").write_text(json.dumps(numbers))
    report.checkpoint(folder, len(numbers))


COUNT = Stage(service="counter", function="tests.chassis.stages:count", spec=CountSpec, keeps=("output.kept",))
COUNT_PART = Stage(
    service="counter", function="tests.chassis.stages:count", spec=CountSpec, files={"base": ("*.txt", "deep/*")}
)
STAGES = {"count": COUNT}
