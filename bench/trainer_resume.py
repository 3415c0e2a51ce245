"""A training run killed with -9 at random moments and gone on with elsewhere: are its losses those of an untouched one?

    python -m bench.trainer_resume [--kills 20] [--seed 0] [--base DIR] [--load WORDS] [--out FILE]

One run is left alone. Then, for each kill: the same run in a process of its own, which gets SIGKILL at a random step
and a random moment after that step was reported, so that forward pass, optimizer, evaluation and the writing of a
checkpoint are all hit; its checkpoints are moved to another folder, and a fresh process goes on there. Compared are
every loss, evaluation, rate and gradient norm, and the adapter's bytes. Prints one JSON line; exits with 1 if one
differs.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tunewright.chassis.reporter import StageReporter
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stage import run

TINY = Path(__file__).parents[1] / "tests" / "fixtures" / "tiny_model"
STEPS = 24
# 13 rows, 2 × 2 a step: epochs end in short steps. Checkpoints every 3 steps, evaluations every 4, dropout draws.
SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-3, "max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "lora_dropout": 0.1, "eval_steps": 4, "save_steps": 3, "early_stopping_patience": 0,
}  # fmt: skip
COMPARED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")
_LATEST_SECONDS = 0.12
"""A kill comes within so long after a step was reported: about one step with its evaluation and checkpoint."""
PROCESSES: Any = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
PROCESSES.set_forkserver_preload(["tunewright.trainer.stage"])


def write_rows(folder: Path) -> None:
    """Write a small dataset; other rows are held out, so that the best adapter is not the last."""
    folder.mkdir(parents=True)
    for name, shift, count in (("train", 0, 13), ("validation", 1, 5)):
        rows = [
            {
                "id": f"{name}-{n}",
                "messages": [
                    {"role": "user", "content": chr(65 + n) * 6},
                    {"role": "assistant", "content": chr(97 + (n + shift) % 13) * 4},
                ],
            }
            for n in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train(folder: Path, dataset: Path, base: Path, kill_at: int, seconds: float) -> None:
    """Run the stage in `folder`, going on from what lies there; get killed so long after step `kill_at` is reported."""
    torch.set_num_threads(1)
    events = (folder / "events.jsonl").open("a", encoding="utf-8", buffering=1)

    def hear(event: dict[str, Any]) -> None:
        events.write(json.dumps({"type": event["type"], **event["data"]}, default=str) + "\n")
        if event["type"] == "progress" and event["data"]["step"] == kill_at:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    shutil.rmtree(folder / "output", ignore_errors=True)
    (folder / "output").mkdir()
    reporter = StageReporter(hear, folder / "checkpoints", None, {})
    run(TrainingSpec.from_mapping(SETTINGS), {"dataset": dataset, "base": base}, folder / "output", reporter)


def in_process(folder: Path, dataset: Path, base: Path, kill_at: int = -1, seconds: float = 0.0) -> int:
    """Run `train` in a process of its own and return its exit code, -9 if it was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    process = PROCESSES.Process(target=train, args=(folder, dataset, base, kill_at, seconds))
    process.start()
    process.join()
    return int(process.exitcode)


def curve(folder: Path) -> list[dict[str, float]]:
    """Return what each step and evaluation measured."""
    lines = (folder / "output" / "logs" / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name in COMPARED} for line in lines]


def largest_difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float | None:
    """Return the largest difference of any figure, 0 if all are equal to the bit; None if the steps are others."""
    if [entry.keys() for entry in one] != [entry.keys() for entry in other]:
        return None
    return max(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True) for name in a)


def killed_once(scratch: Path, whole: Path, dataset: Path, base: Path, kill_at: int, seconds: float) -> dict[str, Any]:
    """Kill one run, go on in another folder, and compare it with the one that was left alone."""
    before, after = scratch / "before", scratch / "after"
    code = in_process(before, dataset, base, kill_at, seconds)
    after.mkdir(parents=True)
    shutil.move(before / "checkpoints", after / "checkpoints")
    finished = code == 0 or in_process(after, dataset, base) == 0
    told = [json.loads(line) for line in (after / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    resumed = [event["step"] for event in told if event["type"] == "resume"]
    adapters = [folder / "output" / "adapter_model.safetensors" for folder in (whole, after)]
    difference = largest_difference(curve(whole), curve(after)) if finished else None
    same = finished and adapters[0].read_bytes() == adapters[1].read_bytes()
    shutil.rmtree(scratch)
    return {
        "killed_after_step": kill_at,
        "milliseconds_later": round(seconds * 1000),
        "exit_code": code,
        "resumed_after_step": resumed[0] if resumed else 0,
        "largest_difference": difference,
        "same_bytes": same,
    }


def main() -> int:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the steps and moments")
    parser.add_argument("--base", type=Path, default=TINY)
    parser.add_argument("--load", default="not said", help="what else ran on the machine")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    draw = random.Random(given.seed)  # noqa: S311 - moments, no secrets
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "dataset")
        if in_process(folder / "whole", folder / "dataset", given.base):
            raise RuntimeError("the run that nothing happens to does not end")
        kills = []
        for number in range(given.kills):
            at, seconds = draw.randrange(1, STEPS), draw.uniform(0, _LATEST_SECONDS)
            place = folder / str(number)
            kills.append(killed_once(place, folder / "whole", folder / "dataset", given.base, at, seconds))
            print(json.dumps(kills[-1]), file=sys.stderr, flush=True)
    equal = sum(kill["largest_difference"] == 0 and kill["same_bytes"] for kill in kills)
    found = {
        "benchmark": "trainer_resume",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU, one thread a run",
        "load": given.load,
        "packages": {name: version(name) for name in ("torch", "transformers", "peft", "trl", "bitsandbytes")},
        "base": given.base.name,
        "settings": SETTINGS,
        "seed": given.seed,
        "kills": len(kills),
        "equal_to_the_bit": equal,
        "seconds": round(time.monotonic() - began),
        "runs": kills,
    }
    print(json.dumps(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if equal == len(kills) else 1


if __name__ == "__main__":
    sys.exit(main())
