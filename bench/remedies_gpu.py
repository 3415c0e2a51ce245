"""The trainer's remedies on a GPU, at 7B: a card that is too small on purpose, and a gradient without numbers.

    python -m bench.remedies_gpu DIR [--gb 24] [--out FILE]   DIR: `python -m bench.qlora_gpu make DIR` wrote it

Memory: PyTorch's allocator may take `--gb` GB of the card, the run asks for 16 rows of 2048 tokens in one pass without
gradient checkpointing; it has to climb down and finish all steps with 16 rows each. Numbers: one adapter's gradient is
made NaN once, in the third step; the run has to go back to a checkpoint and finish. Prints one JSON line.
"""

import argparse
import gc
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bench.qlora_gpu import MAX_LENGTH, Clock, Timing, conversations
from tunewright.trainer import adapters
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stage import run

ROWS, STEPS, POISONED_STEP = 16, 5, 3
MEMORY = {"per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 1, "gradient_checkpointing": False}
NUMBERS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": ROWS // 2}


@dataclass
class Listening(Timing):
    """Keeps what the remedies say, and when."""

    told: list[dict[str, Any]] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def event(self, type_: str, message: str, **data: Any) -> None:  # noqa: ANN401 - any JSON value
        """Keep troubles and remedies."""
        print(f"{type_}: {message}", file=sys.stderr, flush=True)
        if type_ in {"trouble", "remedy"}:
            kept = {key: value for key, value in data.items() if isinstance(value, (str, int, float, dict))}
            second = round(time.perf_counter() - self.began)
            self.told.append({"second": second, "type": type_, "text": message, **kept})

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Keep the losses."""
        super().progress(step, total, unit=unit, **figures)
        if "loss" in figures:
            self.losses.append((step, round(figures["loss"], 4)))


def train(base: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Run the trainer's stage and return what came of it."""
    settings = {"max_length": MAX_LENGTH, "max_steps": STEPS, "save_steps": 2, "eval_steps": 2, **settings}
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("dataset", "output"):
            (folder / name).mkdir()
        rows = conversations("full", ROWS * STEPS)
        text = "".join(json.dumps({"id": str(number), "messages": row}) + "\n" for number, row in enumerate(rows))
        (folder / "dataset" / "train.jsonl").write_text(text, encoding="utf-8")
        report = Listening(folder / "checkpoints", Clock())
        found: dict[str, Any] = {}
        try:
            inputs = {"dataset": folder / "dataset", "base": base}
            manifest = run(TrainingSpec.from_mapping(settings), inputs, folder / "output", report)
            found = {"steps": manifest.metrics["steps"], "taken": [r["action"] for r in manifest.metrics["remedies"]]}
        except Exception as error:  # noqa: BLE001 - what the run ended in is the result
            found = {"failed": repr(error)[:2000]}
    found["peak_reserved_gb"] = round(torch.cuda.max_memory_reserved() / 1e9, 2)
    seconds = round(time.perf_counter() - report.began, 1)
    gc.collect()
    torch.cuda.empty_cache()
    return {**found, "seconds": seconds, "losses": report.losses, "told": report.told, "settings": settings}


def poison(passes: set[int]) -> Callable[[], None]:
    """Make one adapter's gradient NaN in these backward passes, counted over all attempts; return what undoes it."""
    make, count = adapters.make_trainable, itertools.count(1)

    def poisoned(model: Any, spec: TrainingSpec) -> Any:  # noqa: ANN401 - PEFT ships no types
        made = make(model, spec)
        parameter: Any = next(value for name, value in adapters.trainable(made).items() if "lora_B" in name)
        parameter.register_hook(lambda gradient: gradient * float("nan") if next(count) in passes else gradient)
        return made

    adapters.make_trainable = poisoned

    def undo() -> None:
        adapters.make_trainable = make

    return undo


def main() -> None:
    """Run both and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--gb", type=float, default=24.0, help="GB (10^9 bytes) that the first run may take")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    document: dict[str, Any] = {
        "benchmark": "remedies_gpu",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "trl")},
        "command": " ".join(["python -m bench.remedies_gpu", *sys.argv[1:]]),
        "memory_gb": arguments.gb,
    }
    total = torch.cuda.get_device_properties(0).total_memory
    undo = poison({(POISONED_STEP - 1) * ROWS // 2 + 1})
    document["numbers"] = train(arguments.base, NUMBERS)
    undo()
    _write(document, arguments.out)
    torch.cuda.set_per_process_memory_fraction(min(arguments.gb * 1e9 / total, 1.0))
    document["memory"] = train(arguments.base, MEMORY)
    _write(document, arguments.out)
    print(json.dumps(document))


def _write(document: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        with suppress(FileExistsError):
            out.parent.mkdir(parents=True)
        out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
