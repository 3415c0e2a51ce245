"""Does a real model learn on QLoRA's fast path what it learns on the plain one? Held-out loss of both, several seeds.

Every pair of runs has the same base, rows, order of rows and settings; paths alone differ. They round in different
places and drop other inputs, as two seeds would, so that the plain path's spread over seeds is printed beside.

    python -m bench.fast_and_plain BASE DATASET --folder DIR [--seeds 3] [--steps 120] [--at-once 1]

BASE: folder that `python -m demo.base_model` makes; DATASET: folder with train.jsonl and validation.jsonl, as data
preparation writes. Runs that are finished in DIR are not run again. Prints one JSON line.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tunewright.trainer.base import weights_fingerprint

PATHS = {"plain": "off", "fast": "on"}
TRAINING = {
    "method": "qlora",
    "lora_r": 16,
    "lora_dropout": 0.05,
    "learning_rate": 5e-4,
    "warmup_steps": 4,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "per_device_eval_batch_size": 16,
    "max_length": 256,
    "early_stopping_patience": 0,
    "optim": "adamw_8bit",
}
"""What every run trains with, beside max_steps, eval_steps and seed."""
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Samples → the factor of a 95 % interval of their mean (Student's t, one degree of freedom fewer)."""


def one(folder: Path, base: Path, dataset: Path, path: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one run by the trainer's own command and return its held-out losses."""
    result, output = folder / f"{path}-{seed}.json", folder / f"{path}-{seed}.out"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_bytes())
        return found
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / f"{path}-{seed}.yaml"
    settings = {**TRAINING, "max_steps": steps, "eval_steps": -(-steps // 4), "save_steps": steps, "seed": seed}
    spec.write_text(json.dumps({**settings, "fast_path": PATHS[path]}), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "tunewright.trainer", "run", str(spec), "--input", f"dataset={dataset}"]
    started = time.monotonic()
    with (folder / f"{path}-{seed}.log").open("w") as log:
        inputs = ["--input", f"base={base}", "--output", str(output)]
        subprocess.run([*command, *inputs], check=True, stdout=log, stderr=subprocess.STDOUT)
    lines = (output / "logs" / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    losses = {entry["step"]: round(entry["eval_loss"], 5) for entry in entries if "eval_loss" in entry}
    found = {
        "path": path,
        "seed": seed,
        "seconds": round(time.monotonic() - started),
        "held_out_loss_by_step": losses,
        "held_out_loss": list(losses.values())[-1],
    }
    result.write_text(json.dumps(found), encoding="utf-8")
    shutil.rmtree(output)
    shutil.rmtree(f"{output}.checkpoints", ignore_errors=True)
    return found


def interval(differences: list[float]) -> list[float]:
    """Return the 95 % interval of the mean of up to 8 paired differences."""
    mean = statistics.mean(differences)
    half = _T95[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    return [round(mean - half, 5), round(mean + half, 5)]


def main() -> None:
    """Train all pairs and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, choices=range(2, 9))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--at-once", type=int, default=1, help="runs beside each other; their seconds say nothing then")
    asked = parser.parse_args()
    pairs = [(path, seed) for seed in range(asked.seeds) for path in PATHS]
    with ThreadPoolExecutor(asked.at_once) as pool:
        begun = [
            pool.submit(one, asked.folder, asked.base, asked.dataset, path, seed, asked.steps) for path, seed in pairs
        ]
        runs = [run.result() for run in begun]
    lost = {path: [run["held_out_loss"] for run in runs if run["path"] == path] for path in PATHS}
    differences = [fast - plain for fast, plain in zip(lost["fast"], lost["plain"], strict=True)]
    document = {
        "benchmark": "fast_and_plain",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "trl")},
        },
        "command": "python -m bench.fast_and_plain BASE DATASET " + " ".join(sys.argv[3:]),
        "base": {"folder": asked.base.name, "fingerprint": weights_fingerprint(asked.base)},
        "training": {**TRAINING, "max_steps": asked.steps},
        "runs": runs,
        "fast_minus_plain": [round(each, 5) for each in differences],
        "mean_fast_minus_plain": round(statistics.mean(differences), 5),
        "interval_95": interval(differences),
        "plain_standard_deviation_over_seeds": round(statistics.stdev(lost["plain"]), 5),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
