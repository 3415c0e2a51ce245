"""Training speed and memory of QLoRA on one GPU: our trainer beside the field's usual recipe and Unsloth, on one card.

    python bench/qlora_gpu.py make DIR                        random bf16 weights of Qwen2.5-7B's shape, and a tokenizer
    python bench/qlora_gpu.py one WHO DIR [--workload short]  one participant: its JSON line
    python bench/qlora_gpu.py all DIR                         each in a process of its own, one after the other

Real tokens (padding not counted) a second, median of the steps after two warm-up steps; peaks of allocated and
reserved memory from the first step's end to the last one's. One optimizer step is 16 rows, as 2 × 8. Every participant
gets the same rows; saving and evaluating are left out of what is timed. Knows nothing of how any of them works.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROWS_A_PASS, PASSES, STEPS, WARM_UP = 2, 8, 7, 2
MAX_LENGTH = 2048
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BYTE_TOKENIZER = Path(__file__).parents[1] / "tests" / "fixtures" / "tiny_model"  # a token a byte
# Who, on which rows, with which settings of its own.
RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("ours", "full", {}),
    ("ours", "full", {"vram_budget_gb": 24}),
    ("ours", "full", {"vram_budget_gb": 8}),
    ("ours", "full", {"vram_budget_gb": 3}),
    ("ours", "full", {"vram_budget_gb": 5.2}),
    ("recipe", "full", {}),
    ("unsloth", "full", {}),
    ("ours", "short", {}),
    ("recipe", "short", {}),
]


def make(directory: Path) -> None:
    """Write a model of Qwen2.5-7B's shape with random weights, and the tests' tokenizer of bytes."""
    from transformers import AutoModelForCausalLM, Qwen2Config  # noqa: PLC0415 - Unsloth must come first

    config = Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
        vocab_size=152064, max_position_embeddings=32768, tie_word_embeddings=False, bos_token_id=1, eos_token_id=3,
        pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call] # their own
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory, max_shard_size="4GB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BYTE_TOKENIZER / name, directory)


def conversations(workload: str, count: int) -> list[list[dict[str, str]]]:
    """Return `count` conversations: longer than MAX_LENGTH, or as instructions are (median 270 tokens)."""
    draw = random.Random(0)  # noqa: S311 - a benchmark's rows
    rows = []
    for _ in range(count):
        tokens = max(32, min(MAX_LENGTH - 32, int(draw.lognormvariate(5.6, 0.8))))
        length = MAX_LENGTH + 8 if workload == "full" else tokens
        answer = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=length))
        rows.append([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}])
    return rows


@dataclass
class Clock:
    """When each step ended, and how many tokens it had."""

    ends: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def step(self, tokens: int) -> None:
        """Note the end of a step of `tokens` real tokens."""
        torch.cuda.synchronize()
        if not self.ends:
            self.before = torch.cuda.max_memory_reserved()
            torch.cuda.reset_peak_memory_stats()
        self.ends.append(time.perf_counter())
        self.tokens.append(tokens)
        self.allocated, self.reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()

    def figures(self) -> dict[str, Any]:
        """Return tokens a second (median, lowest, highest) and the peaks in GB (10^9 bytes)."""
        seconds = [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]
        speeds = [count / each for count, each in zip(self.tokens[1:], seconds, strict=True)][WARM_UP - 1 :]
        return {
            "tokens_per_second": round(statistics.median(speeds)),
            "lowest": round(min(speeds)),
            "highest": round(max(speeds)),
            "steps_timed": len(speeds),
            "tokens_a_step": round(statistics.mean(self.tokens[WARM_UP:])),
            "peak_allocated_gb": round(self.allocated / 1e9, 2),
            "peak_reserved_gb": round(self.reserved / 1e9, 2),
            "loading_and_first_step_reserved_gb": round(self.before / 1e9, 2),
        }


@dataclass
class Timing:
    """A reporter that hears the trainer's steps; see `tunewright.chassis.stage.Reporter`."""

    checkpoints: Path
    clock: Clock
    runtime: dict[str, Any] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    _last: float = 0.0

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Note a step's end; the tokens are what the trainer itself counts."""
        del total, unit
        if "tokens_per_second" in figures:
            self.clock.step(round(figures["tokens_per_second"] * (time.perf_counter() - self._last)))
        self._last = time.perf_counter()
        del step

    def __post_init__(self) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
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


def ours(base: Path, workload: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train by our trainer's stage, whole: dataset folder and base in, adapter out."""
    from tunewright.trainer.spec import TrainingSpec  # noqa: PLC0415 - imports after Unsloth's, as each wants it
    from tunewright.trainer.stage import run  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "dataset").mkdir()
        factor = 8 if settings.get("packing") else 1
        rows = conversations(workload, ROWS_A_PASS * PASSES * STEPS * factor)
        lines = [{"id": str(number), "messages": row} for number, row in enumerate(rows)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "dataset" / "train.jsonl").write_text(text, encoding="utf-8")
        spec = TrainingSpec.from_mapping(
            {"max_length": MAX_LENGTH, "max_steps": STEPS, "save_steps": 1000, "eval_steps": 1000, **settings}
        )
        clock = Clock()
        report = Timing(folder / "checkpoints", clock)
        (folder / "output").mkdir()
        manifest = run(spec, {"dataset": folder / "dataset", "base": base}, folder / "output", report)
        size = (folder / "output" / "adapter_model.safetensors").stat().st_size
    return {**clock.figures(), "adapter_bytes": size, "steps": manifest.metrics["steps"], "events": report.events}


def field_standard(base: Path, workload: str, settings: dict[str, Any], *, unsloth: bool) -> dict[str, Any]:
    """Train by TRL's SFTTrainer as its documentation says: PEFT and bitsandbytes, or Unsloth."""
    fast = importlib.import_module("unsloth").FastLanguageModel if unsloth else None  # it wants to be imported first
    from datasets import Dataset  # noqa: PLC0415
    from transformers import TrainerCallback  # noqa: PLC0415
    from trl.trainer.sft_config import SFTConfig  # noqa: PLC0415
    from trl.trainer.sft_trainer import SFTTrainer  # noqa: PLC0415

    model, tokenizer = _unsloth_model(fast, base) if unsloth else _recipe_model(base)
    tokens = [
        list(tokenizer.apply_chat_template(row, return_dict=True)["input_ids"])[:MAX_LENGTH]
        for row in conversations(workload, ROWS_A_PASS * PASSES * STEPS)
    ]
    counts: list[int] = []
    clock = Clock()

    class Steps(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, ARG002 - transformers' signature
            clock.step(sum(counts))
            counts.clear()

    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), max_steps=STEPS, per_device_train_batch_size=ROWS_A_PASS,
        gradient_accumulation_steps=PASSES, learning_rate=2e-4, lr_scheduler_type="cosine", bf16=True, logging_steps=1,
        save_strategy="no", report_to="none", gradient_checkpointing=True, optim="adamw_8bit", max_grad_norm=1.0,
        max_length=MAX_LENGTH, dataloader_num_workers=0, disable_tqdm=True, **settings,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list([{"input_ids": ids} for ids in tokens]),
        processing_class=tokenizer, callbacks=[Steps()],
    )  # fmt: skip
    real = trainer.training_step

    def counting(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        mask = inputs.get("attention_mask")
        counts.append(int(mask.sum()) if mask is not None else inputs["input_ids"].numel())
        return real(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call] # their own

    trainer.training_step = counting  # type: ignore[method-assign] # their own
    outcome = trainer.train()
    return {**clock.figures(), "loss": outcome.training_loss}


def _recipe_model(base: Path) -> tuple[Any, Any]:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig  # noqa: PLC0415

    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call] # their own
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=quantization, device_map={"": 0}, dtype=torch.bfloat16
    )
    model = prepare_model_for_kbit_training(model)  # type: ignore[no-untyped-call] # their own
    config = LoraConfig(
        task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.05, target_modules=PROJECTIONS, bias="none"
    )
    return get_peft_model(model, config), AutoTokenizer.from_pretrained(base)


def _unsloth_model(fast: Any, base: Path) -> tuple[Any, Any]:  # noqa: ANN401 - ships no types
    model, tokenizer = fast.from_pretrained(
        str(base), max_seq_length=MAX_LENGTH, dtype=torch.bfloat16, load_in_4bit=True
    )
    model = fast.get_peft_model(
        model, r=16, lora_alpha=32, lora_dropout=0, target_modules=PROJECTIONS, bias="none",
        use_gradient_checkpointing="unsloth", random_state=0,
    )  # fmt: skip
    return model, tokenizer


def one(who: str, base: Path, workload: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one participant."""
    if who == "ours":
        figures = ours(base, workload, settings)
    else:
        figures = field_standard(base, workload, settings, unsloth=who == "unsloth")
    return {"who": who, "workload": workload, "settings": settings, **figures}


def everyone(base: Path, seconds: float, peer_path: str) -> dict[str, Any]:
    """Run all, each in its own process, and put the recipe's speed beside each as a ratio."""
    end = time.monotonic() + seconds
    results: list[dict[str, Any]] = []
    for who, workload, settings in RUNS:
        command = [
            sys.executable,
            __file__,
            "one",
            who,
            str(base),
            "--workload",
            workload,
            "--settings",
            json.dumps(settings),
        ]
        environment = dict(os.environ)
        if who == "unsloth":
            environment["PYTHONPATH"] = peer_path
        left = end - time.monotonic()
        if left < 60 or (who == "unsloth" and not peer_path):  # noqa: PLR2004 - seconds that a start takes
            results.append({"who": who, "workload": workload, "settings": settings, "error": "not run"})
            continue
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=left, check=False)
            lines = [line for line in done.stdout.splitlines() if line.startswith('{"who"')]
            entry = json.loads(lines[-1]) if lines else {"error": done.stderr[-1500:]}
        except subprocess.TimeoutExpired:
            entry = {"error": f"stopped after {left:.0f} s"}
        results.append({"who": who, "workload": workload, "settings": settings, **entry})
        print(json.dumps(results[-1]), flush=True)
    speed = {r["workload"]: r.get("tokens_per_second") for r in results if r["who"] == "recipe"}
    for entry in results:
        beside = speed.get(entry["workload"])
        if beside and "tokens_per_second" in entry:
            entry["times_the_recipe"] = round(entry["tokens_per_second"] / beside, 2)
    return {"benchmark": "qlora_gpu", "device": torch.cuda.get_device_name(0), "runs": results}


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("base", type=Path)
    alone = commands.add_parser("one")
    alone.add_argument("who", choices=["ours", "recipe", "unsloth"])
    alone.add_argument("base", type=Path)
    alone.add_argument("--workload", choices=["full", "short"], default="full")
    alone.add_argument("--settings", type=json.loads, default={})
    every = commands.add_parser("all")
    every.add_argument("base", type=Path)
    every.add_argument("--seconds", type=float, default=3600, help="after these, what has not run is left out")
    every.add_argument("--peer-path", default="", help="PYTHONPATH under which Unsloth is installed; empty: left out")
    given = parser.parse_args()
    if given.command == "make":
        make(given.base)
    elif given.command == "one":
        print(json.dumps(one(given.who, given.base, given.workload, given.settings)), flush=True)
    else:
        print(json.dumps(everyone(given.base, given.seconds, given.peer_path)), flush=True)


if __name__ == "__main__":
    main()
