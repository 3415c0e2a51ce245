"""Training in several processes beside one: tokens a second, memory, and whether losses, gradients and adapter agree.

    python -m bench.several_gpus                                         # tiny shapes, on any machine
    python -m bench.qlora_gpu make DIR                                   # random weights of Qwen2.5-7B's shape
    python -m bench.several_gpus --base DIR --rows 4 --passes 8 --max-length 2048 --processes 1 2
    python -m bench.several_gpus --base DIR … --fsdp full_shard          # the same base in shards
    python -m bench.several_gpus --base DIR … --launcher ray             # as workers of TUNEWRIGHT_RAY_ADDRESS

Each run is the product's own stage, on the same rows with the same effective batch (--rows × --passes): the median of
the tokens a second that it reports, after two steps of warm-up; the first process's peak memory. Runs in one process
come last, so that nothing of theirs is on a GPU while others are measured. Prints one JSON line.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunewright.chassis.reporter import StageReporter
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stage import run

TINY = Path(__file__).parents[1] / "tests" / "fixtures" / "tiny_model"
WARM_UP = 2
_PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate")


def main(argv: list[str]) -> dict[str, Any]:
    """Measure what the command line asks for and return the figures."""
    asked = _arguments().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = _dataset(folder / "dataset", asked.rows * asked.passes, asked.max_length)
        order = sorted(asked.processes, reverse=True)
        runs = {count: _measured(asked, count, dataset, folder / f"run-{count}") for count in order}
        adapters = {count: load_file(folder / f"run-{count}" / "adapter_model.safetensors") for count in order}
    least = order[-1]
    return {
        "benchmark": "several_gpus",
        "command": ["python", "-m", "bench.several_gpus", *argv],
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {platform.machine()}",
        "devices": torch.cuda.device_count() or None,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "runs": [
            {
                "processes": count,
                **runs[count],
                "efficiency": runs[count]["tokens_per_second"] * least / runs[least]["tokens_per_second"] / count,
                "loss_differs_by": _apart(runs[count]["losses"], runs[least]["losses"]),
                "grad_norm_differs_by": _apart(runs[count]["grad_norms"], runs[least]["grad_norms"]),
                "adapter_differs_by": _adapters_apart(adapters[count], adapters[least]),
            }
            for count in sorted(order)
        ],
    }


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.several_gpus")
    parser.add_argument("--base", type=Path, default=TINY, help="folder of a model; the tests' tiny one")
    parser.add_argument("--rows", type=int, default=2, help="of a micro-batch")
    parser.add_argument("--passes", type=int, default=4, help="of a step, of all processes together")
    parser.add_argument("--max-length", type=int, default=64, help="tokens; every row has about as many")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--fsdp", choices=["off", "full_shard"], default="off")
    parser.add_argument("--fast-path", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--launcher", choices=["local", "ray"], default="local", help="of several processes")
    return parser


def _dataset(folder: Path, rows: int, max_length: int) -> Path:
    folder.mkdir()
    draw = random.Random(0)  # noqa: S311 - a benchmark's rows
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            answer = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=max_length))
            messages = [{"role": "user", "content": f"{number}"}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"id": str(number), "messages": messages}) + "\n")
    return folder


def _measured(asked: argparse.Namespace, processes: int, dataset: Path, output: Path) -> dict[str, Any]:
    output.mkdir()
    told: list[dict[str, Any]] = []
    report = StageReporter(told.append, output.with_name(f"{output.name}.checkpoints"), None, {})
    spec = TrainingSpec(
        processes=processes,
        launcher=asked.launcher if processes > 1 else "local",
        fsdp=asked.fsdp,
        fast_path=asked.fast_path,
        per_device_train_batch_size=asked.rows,
        gradient_accumulation_steps=asked.passes,
        max_length=asked.max_length,
        max_steps=asked.steps,
        save_steps=asked.steps,
        lora_dropout=0.0,  # each process draws its own
    )
    run(spec, {"dataset": dataset, "base": asked.base}, output, report)
    steps = [event["data"] for event in told if event["type"] == "progress" and "loss" in event["data"]]
    return {
        "tokens_per_second": statistics.median(step["tokens_per_second"] for step in steps[WARM_UP:]),
        "memory_bytes": max(step["memory_bytes"] for step in steps),
        "losses": [step["loss"] for step in steps],
        "grad_norms": [step["grad_norm"] for step in steps],
    }


def _apart(found: list[float], wanted: list[float]) -> float:
    """Return the largest relative difference, step by step."""
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in zip(found, wanted, strict=True))


def _adapters_apart(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference over the norm."""
    ours, theirs = (torch.cat([one[name].flatten().float() for name in sorted(one)]) for one in (found, wanted))
    return float((ours - theirs).norm() / theirs.norm())


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
