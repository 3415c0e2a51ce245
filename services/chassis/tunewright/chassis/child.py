"""The process that runs one stage: `python -m tunewright.chassis.child FOLDER`.

Reads FOLDER/task.json, writes FOLDER/events.jsonl while it runs and, by a rename, FOLDER/result.json at its end.
Knows nothing of jobs, stores and gRPC. `process.py` is its master.
"""

import json
import logging
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, cast

from tunewright.artifacts import Manifest
from tunewright.chassis import logs
from tunewright.chassis.errors import foreign
from tunewright.chassis.reporter import StageReporter
from tunewright.chassis.spec import Spec
from tunewright.chassis.stage import StageFunction

_PACKAGES = (
    "torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "tokenizers", "safetensors",
    "numpy", "httpx", "selectolax",
)  # fmt: skip


def main(folder: Path) -> int:
    """Run the task in `folder`; 0 whenever a result was written, be it an artifact or an error."""
    task = json.loads((folder / "task.json").read_bytes())
    logs.configure(task["service"], task["log_level"], "text")
    with (folder / "events.jsonl").open("a", encoding="utf-8", buffering=1) as events:

        def sink(event: dict[str, Any]) -> None:
            events.write(json.dumps(event, ensure_ascii=False, default=float) + "\n")

        reporter = StageReporter(sink, folder / "checkpoints", folder / "outbox", task["runtime"])
        reporter.stop_on_signals()
        write_atomically(folder / "result.json", json.dumps(_outcome(task, folder, reporter)).encode())
    return 0


def load_function(path: str) -> StageFunction[Spec]:
    """Return the function named `package.module:function`."""
    module, _, name = path.partition(":")
    return cast("StageFunction[Spec]", getattr(import_module(module), name))


def load_spec(path: str, values: Mapping[str, Any]) -> Spec:
    """Return the spec of the class named `package.module:Class`."""
    module, _, name = path.partition(":")
    return cast("type[Spec]", getattr(import_module(module), name)).from_mapping(values)


def run(function: str, spec: Spec, inputs: Mapping[str, Path], output: Path, reporter: StageReporter) -> Manifest:
    """Run a stage and return its draft with spec, package versions, seconds and peak memory written in."""
    started = time.monotonic()
    draft = load_function(function)(spec, inputs, output, reporter)
    measured = {
        "stage_seconds": round(time.monotonic() - started, 3),
        "stage_peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return draft.model_copy(
        update={"spec": spec.canonical(), "packages": _packages(), "metrics": {**draft.metrics, **measured}}
    )


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that appears complete or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


def _outcome(task: dict[str, Any], folder: Path, reporter: StageReporter) -> dict[str, Any]:
    try:
        spec = load_spec(task["spec_class"], task["spec"])
        inputs = {name: Path(path) for name, path in task["inputs"].items()}
        output = folder / "output"
        output.mkdir(exist_ok=True)
        manifest = run(task["function"], spec, inputs, output, reporter)
    except Exception as error:
        # Half an output is of no use, and on a full disk its room is needed to say so.
        shutil.rmtree(folder / "output", ignore_errors=True)
        logging.getLogger(__name__).exception("the stage failed")
        return {"error": foreign(error).to_dict()}
    return {"manifest": manifest.model_dump(mode="json")}


def _packages() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES if name in sys.modules}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
