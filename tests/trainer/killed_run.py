"""One training run in a process of its own, which dies or is stopped where it is told to.

`when` is `checkpoint` (kill -9 right after the checkpoint of that step), `progress` (kill -9 when that step is
reported), `memory` (from the first evaluation on, when everything is loaded and every thread runs, the process may take
that many MB more than it has) or `stop` (a stop is requested once that step is reported: in the middle of its
evaluation if it has one). The folder holds spec.json, dataset, and adapter if training goes on
from one; checkpoints are kept in it, output is written anew, said.json tells the end.
"""

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import Interrupted
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stage import run

TINY_MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
INTERRUPTED = 3


def main(folder: Path, when: str = "", step: int = 0) -> None:
    torch.set_num_threads(1)
    report = _reporter(folder, when, step)
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    spec = TrainingSpec.from_mapping(json.loads((folder / "spec.json").read_bytes()))
    inputs = {"dataset": folder / "dataset", "base": TINY_MODEL}
    if (folder / "adapter").is_dir():
        inputs["adapter"] = folder / "adapter"
    try:
        manifest = run(spec, inputs, output, report)
    except Interrupted:
        _say(folder, saved=report.saved)
        sys.exit(INTERRUPTED)
    _say(
        folder,
        saved=report.saved,
        metrics=manifest.metrics,
        events=[kind for kind, _, _ in report.events],
        remedies=report.of_type("remedy"),
    )


def _reporter(folder: Path, when: str, step: int) -> Recorder:
    def die(at: int) -> None:
        if at == step:
            os.kill(os.getpid(), signal.SIGKILL)

    report = Recorder(folder / "checkpoints")
    if when == "checkpoint":
        report.on_checkpoint = die
    elif when == "progress":
        report.on_progress = die
    elif when == "memory":
        report.on_progress = lambda _: _limit_memory(step)
    elif when == "stop":
        report.stop = lambda: bool(report.steps) and report.steps[-1]["step"] >= step
    return report


def _limit_memory(megabytes: int) -> None:
    """Let the process take no more than it has and `megabytes`; a limit that stands stays."""
    if resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _say(folder: Path, **what: Any) -> None:  # noqa: ANN401 - any JSON
    (folder / "said.json").write_text(json.dumps(what), encoding="utf-8")
