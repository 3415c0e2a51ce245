"""QLoRA steps on a CPU: our trainer on its fast and its plain path beside the field's usual recipe, in one run.

    python -m bench.qlora_cpu one WHO BASE    one participant: recipe, fast or plain
    python -m bench.qlora_cpu all BASE        each in a process of its own, one after the other

BASE is a folder of SmolLM2-135M-Instruct or of another small model. Real tokens (padding not counted) a second, from
the first step's end to the last one's. Everyone gets the same rows: instructions of about 70 tokens, 4 an optimizer
step as 2 × 2. Knows nothing of how any works.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROWS_A_PASS, PASSES, STEPS, TURNS = 2, 2, 3, 1
MAX_LENGTH = 1024
WORDS = [
    "the",
    "river",
    "stone",
    "green",
    "quickly",
    "runs",
    "under",
    "old",
    "bridge",
    "and",
    "seven",
    "boats",
    "carry",
]


def conversations() -> list[list[dict[str, str]]]:
    """Return the rows of all steps."""
    draw = random.Random(0)  # noqa: S311 - a benchmark's rows
    lengths = [max(16, min(400, int(draw.lognormvariate(4.0, 0.6)))) for _ in range(ROWS_A_PASS * PASSES * STEPS)]
    return [
        [
            {"role": "user", "content": "Tell me a story."},
            {"role": "assistant", "content": " ".join(draw.choices(WORDS, k=length))},
        ]
        for length in lengths
    ]


@dataclass
class Timing:
    """A reporter that hears the trainer's steps; see `tunewright.chassis.stage.Reporter`."""

    checkpoints: Path
    runtime: dict[str, Any] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    _last: float = 0.0

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Note a step's end, and the tokens that the trainer itself counted."""
        del step, total, unit
        if "loss" in figures:
            self.ends.append(time.perf_counter())
            self.tokens.append(figures["tokens_per_second"] * (self.ends[-1] - self._last))
            self.losses.append(round(figures["loss"], 4))
        self._last = time.perf_counter()

    def event(self, type_: str, message: str, **data: Any) -> None:  # noqa: ANN401 - any JSON value
        """Keep what was said."""
        del data
        self.events.append(f"{type_}: {message}")

    def checkpoint(self, directory: Path, step: int) -> None:
        """Keep nothing: only the end of the run is saved."""

    def stop_requested(self) -> bool:
        """Return False: a benchmark runs to its end."""
        return False

    def raise_if_stopped(self) -> None:
        """Never stop."""


def ours(base: Path, fast_path: str) -> dict[str, Any]:
    """Train by our trainer's stage, whole: dataset folder and base in, adapter out."""
    from tunewright.trainer.spec import TrainingSpec  # noqa: PLC0415 - the recipe must not import it
    from tunewright.trainer.stage import run  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("dataset", "output", "checkpoints"):
            (folder / name).mkdir()
        lines = [json.dumps({"id": str(n), "messages": row}) + "\n" for n, row in enumerate(conversations())]
        (folder / "dataset" / "train.jsonl").write_text("".join(lines), encoding="utf-8")
        spec = TrainingSpec.from_mapping(
            {
                "max_length": MAX_LENGTH, "max_steps": STEPS, "save_steps": 1000, "eval_steps": 1000,
                "fast_path": fast_path, "per_device_train_batch_size": ROWS_A_PASS,
                "gradient_accumulation_steps": PASSES,
            }
        )  # fmt: skip
        report = Timing(folder / "checkpoints")
        run(spec, {"dataset": folder / "dataset", "base": base}, folder / "output", report)
    seconds = report.ends[-1] - report.ends[0]
    return {
        "tokens_per_second": round(sum(report.tokens[1:]) / seconds, 1), "seconds": round(seconds, 1),
        "losses": report.losses,
        "events": [event for event in report.events if event.startswith(("device", "fast_path"))],
    }  # fmt: skip


def recipe(base: Path) -> dict[str, Any]:
    """Train by TRL's SFTTrainer, PEFT and bitsandbytes as their documentation says."""
    from datasets import Dataset  # noqa: PLC0415 - as above
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback  # noqa: PLC0415
    from trl.trainer.sft_config import SFTConfig  # noqa: PLC0415
    from trl.trainer.sft_trainer import SFTTrainer  # noqa: PLC0415

    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call] # their own
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=quantization, device_map="cpu", dtype=torch.bfloat16
    )
    model = prepare_model_for_kbit_training(model)  # type: ignore[no-untyped-call] # their own
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.05, target_modules=names)
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded: list[Any] = [tokenizer.apply_chat_template(row, return_dict=True) for row in conversations()]
    rows = [list(row["input_ids"]) for row in encoded]
    ends: list[float] = []
    counts = [0]

    class Steps(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - transformers' signature
            ends.append(time.perf_counter())
            counts.append(0)

    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch, max_steps=STEPS, per_device_train_batch_size=ROWS_A_PASS, use_cpu=True, bf16=True,
            gradient_accumulation_steps=PASSES, learning_rate=2e-4, lr_scheduler_type="cosine", logging_steps=1,
            save_strategy="no", report_to="none", gradient_checkpointing=True, max_length=MAX_LENGTH,
            dataloader_pin_memory=False, disable_tqdm=True, optim="adamw_torch",
        )  # fmt: skip
        trainer = SFTTrainer(
            model=get_peft_model(model, settings), args=arguments, processing_class=tokenizer, callbacks=[Steps()],
            train_dataset=Dataset.from_list([{"input_ids": ids} for ids in rows]),
        )  # fmt: skip
        real = trainer.training_step

        def counting(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            counts[-1] += int(inputs["attention_mask"].sum())
            return real(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call] # their own

        trainer.training_step = counting  # type: ignore[method-assign] # their own
        trainer.train()
    seconds = ends[-1] - ends[0]
    return {"tokens_per_second": round(sum(counts[1:]) / seconds, 1), "seconds": round(seconds, 1)}


def everyone(base: Path) -> dict[str, Any]:
    """Run all in turns, and put the usual recipe beside each as a ratio."""
    turns: list[dict[str, Any]] = []
    for _ in range(TURNS):
        for who in ("recipe", "fast", "plain"):
            command = [sys.executable, "-m", "bench.qlora_cpu", "one", who, str(base)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            turns.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(turns[-1]), file=sys.stderr, flush=True)
    best = {
        who: max(turn["tokens_per_second"] for turn in turns if turn["who"] == who)
        for who in ("recipe", "fast", "plain")
    }
    return {
        "benchmark": "qlora_cpu",
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, bf16",
        "base": "SmolLM2-135M-Instruct",
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl", "bitsandbytes")},
        "command": "python -m bench.qlora_cpu all BASE",
        "tokens_per_second": best,
        "times_the_recipe": {who: round(speed / best["recipe"], 2) for who, speed in best.items()},
        "turns": turns,
    }


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    alone = commands.add_parser("one")
    alone.add_argument("who", choices=["recipe", "fast", "plain"])
    alone.add_argument("base", type=Path)
    commands.add_parser("all").add_argument("base", type=Path)
    given = parser.parse_args()
    if given.command == "all":
        print(json.dumps(everyone(given.base)), flush=True)
        return
    paths = {"fast": "on", "plain": "off"}
    figures = recipe(given.base) if given.who == "recipe" else ours(given.base, paths[given.who])
    print(json.dumps({"who": given.who, **figures}), flush=True)


if __name__ == "__main__":
    main()
