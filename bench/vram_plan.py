"""`tunewright plan` against measured peaks: estimate, measured, error; and what of it is off by more than 10 %.

    python -m bench.vram_plan h100 [--out FILE]      peaks that earlier benchmarks left in bench/results, no GPU needed
    python -m bench.vram_plan cpu [--out FILE] [--seconds N]       short trainings here, a process each

h100 compares with what PyTorch reserved, so without the CUDA context. cpu measures each run twice: with glibc's own
heap, and with every block from 64 KiB on mapped by itself, which shows what is held without what the heap keeps.
Rates on a CPU are by CPU time, as ratios within one process.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.trainer.reporting import Recorder
from tunewright.trainer.fast.passes import Away, Keep, Plan
from tunewright.trainer.planning.lengths import Lengths
from tunewright.trainer.planning.machine import Machine
from tunewright.trainer.planning.memory import footprint, passes_of
from tunewright.trainer.planning.shapes import Shape, read_shape, shape_of
from tunewright.trainer.planning.timing import operations_a_token
from tunewright.trainer.spec import TrainingSpec

RESULTS = Path(__file__).parent / "results"
FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "tiny_model"
QWEN_7B = shape_of(
    {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
     "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
)  # fmt: skip
ROWS = Lengths(((2048, 80),), (), "the benchmark's", known=True)
LIMIT = 0.10
CPU_RUNS: tuple[dict[str, Any], ...] = (
    {"method": "lora", "gradient_checkpointing": False},
    {"method": "lora", "gradient_checkpointing": True},
    {"method": "qlora", "gradient_checkpointing": False},
    {"method": "full", "gradient_checkpointing": False},
    {"method": "qlora", "gradient_checkpointing": True},
    {"method": "full", "gradient_checkpointing": True},
    {"method": "prompt_tuning", "gradient_checkpointing": False},
    {"method": "lora", "gradient_checkpointing": False, "lora_dropout": 0.0},
    {"method": "lora", "gradient_checkpointing": False, "bnb_4bit_compute_dtype": "float32"},
)
SMALL = {"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "max_length": 512}
MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_SIDE = 1024


def h100() -> list[dict[str, Any]]:
    """Return a row for each peak that was measured on an H100 with the 7B shape."""
    rows = [_fast_row(run) for run in _runs("qlora_fast_h100.json") if "T" in run]
    for name in ("qlora_budgets_h100.json", "qlora_memory_h100.json"):
        budgets = json.loads((RESULTS / name).read_bytes())["runs"]
        rows += [_budget_row(name, run) for run in budgets if run["who"] == "ours" and "peak_reserved_gb" in run]
    plain = next(run for run in json.loads((RESULTS / "qlora_gpu_h100.json").read_bytes())["runs"]
                 if run["who"] == "ours" and "peak_reserved_gb" in run)  # fmt: skip
    rows.append(_plain_row("qlora_gpu_h100.json", "2 × 2048, checkpointing", plain["peak_reserved_gb"], {}))
    remedies = json.loads((RESULTS / "remedies_gpu_h100.json").read_bytes())
    numbers, memory = remedies["numbers"], remedies["memory"]
    rows.append(_plain_row("remedies_gpu_h100.json", "2 × 2048, checkpointing", numbers["peak_reserved_gb"], {}))
    ladder = _plain_row(
        "remedies_gpu_h100.json", "1 × 2048, checkpointing, after five attempts that ran out of memory",
        memory["peak_reserved_gb"], {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16},
    )  # fmt: skip
    return [*rows, ladder]


def _runs(name: str) -> list[dict[str, Any]]:
    document = json.loads((RESULTS / name).read_bytes())
    graphs_are_no_part_of_this_repository = "graph"
    found = [*document["runs"], *document["second_call"]["runs"]]
    return [run for run in found if not run.get("name", "").startswith(graphs_are_no_part_of_this_repository)]


def _fast_row(run: dict[str, Any]) -> dict[str, Any]:
    """Compare with the passes that were measured, not with those that a plan would choose."""
    keep = next(keep for word, keep in (("attention", Keep.ATTENTION), ("full", Keep.INPUT), ("keep", Keep.ALL))
                if word in run["name"])  # fmt: skip
    spec = TrainingSpec.from_mapping({"max_length": 2048, "fast_path": "on"})
    machine = Machine("cuda", "NVIDIA H100 80GB HBM3", 80 * 10**9, 2)
    memory = passes_of(QWEN_7B, spec, ROWS, machine, Plan(run["T"], (keep,) * QWEN_7B.layers))
    return _row("qlora_fast_h100.json", f"fast path, {run['name']}", run["reserved_gb"], memory.total - memory.fixed)


def _budget_row(file: str, run: dict[str, Any]) -> dict[str, Any]:
    """Compare with the passes that the run said that it took."""
    told = next(event for event in run["events"] if event.startswith("fast_path"))
    tokens = int(told.partition("up to ")[2].partition(" ")[0])
    words = {"kept": Keep.ALL, "kept but for the MLP": Keep.ATTENTION, "recomputed": Keep.INPUT}
    words["recomputed from inputs in host memory"] = Keep.HOST
    counts = [(int(count), words[how]) for count, how in re.findall(r"(\d+) layers ([a-zA-Z ]+)", told)]
    keeps = tuple(keep for count, keep in counts for _ in range(count))
    away = Away.HEAD if "two tiles" in told else Away.LAYERS if "two layers" in told else Away.NOTHING
    memory = passes_of(
        QWEN_7B, TrainingSpec.from_mapping({"max_length": 2048}), ROWS,
        Machine("cuda", "NVIDIA H100 80GB HBM3", 80 * 10**9, 2), Plan(tokens, keeps, away),
    )  # fmt: skip
    name = f"fast path, vram_budget_gb {run['settings'].get('vram_budget_gb', 'not set')}"
    return _row(file, name, run["peak_reserved_gb"], memory.total - memory.fixed)


def _plain_row(file: str, name: str, measured: float, settings: dict[str, Any]) -> dict[str, Any]:
    spec = TrainingSpec.from_mapping({"max_length": 2048, "fast_path": "off", **settings})
    memory = footprint(QWEN_7B, spec, ROWS, Machine("cuda", "NVIDIA H100 80GB HBM3", 80 * 10**9, 2)).memory
    return _row(file, f"plain path, {name}", measured, memory.total - memory.fixed)


def _row(file: str, name: str, measured: float, estimate: float) -> dict[str, Any]:
    error = estimate / 1e9 / measured - 1
    return {"run": name, "measured_in": file, "measured_gb": measured, "estimate_gb": round(estimate / 1e9, 2),
            "error": round(error, 3), "within": abs(error) <= LIMIT}  # fmt: skip


def cpu(seconds: float) -> list[dict[str, Any]]:
    """Return a row for each short training here, and the process's own size first; what comes too late is not run."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        subprocess.run([sys.executable, "-m", "bench.vram_plan", "make", str(base)], check=True)
        shape = read_shape(base)
        tiny = _measured(FIXTURE, {"method": "lora", "max_length": 64}, {})
        rows: list[dict[str, Any]] = [{"run": "process: a model of 98,816 parameters", "measured_gb": tiny["peak_gb"]}]
        for settings in CPU_RUNS:
            if time.monotonic() > end:
                rows.append({"run": _words(settings), "error": "not run"})
                continue
            rows.append(_cpu_row(base, shape, settings))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _cpu_row(base: Path, shape: Shape, settings: dict[str, Any]) -> dict[str, Any]:
    own, mapped = (_measured(base, settings, environment) for environment in ({}, MAPPED))
    spec = TrainingSpec.from_mapping({**SMALL, **settings})
    rows = Lengths(((512, 4),), (), "the benchmark's", known=True)
    memory = footprint(shape, spec, rows.cut(spec), Machine("cpu", "", 10**12, own["bytes_a_value"])).memory
    held = memory.total - memory.slack
    heap = (own["peak_gb"] - mapped["peak_gb"]) * 1e9 / (memory.activations + memory.head)
    operations = operations_a_token(shape, spec, 512, fast=False)
    return {
        "run": _words(settings),
        "measured_gb": own["peak_gb"],
        "estimate_gb": round(memory.total / 1e9, 3),
        "error": round(memory.total / 1e9 / own["peak_gb"] - 1, 3),
        "mapped_gb": mapped["peak_gb"],
        "estimate_without_slack_gb": round(held / 1e9, 3),
        "error_without_slack": round(held / 1e9 / mapped["peak_gb"] - 1, 3),
        "heap_beside_activations": round(heap, 2),
        "share_of_a_product": round(own["tokens_a_second"] * operations / own["flops"], 2),
    }


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in settings.items())


def _measured(base: Path, settings: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.vram_plan", "one", str(base), json.dumps({**SMALL, **settings})]
    everything = {**os.environ, **environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=everything, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def make(directory: Path) -> None:
    """Write a model of 28 million random weights and the tests' tokenizer of bytes."""
    from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: PLC0415 - seconds that comparing has no need of

    config = LlamaConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4,
        vocab_size=8192, tie_word_embeddings=True, bos_token_id=None, eos_token_id=258, pad_token_id=256,
    )  # fmt: skip
    import torch  # noqa: PLC0415

    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call] # their own
    model.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(FIXTURE / name, directory)


def one(base: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train by the trainer's stage in this process and return its peak of RSS and its speed by CPU time."""
    from tunewright.trainer.device import compute_dtype  # noqa: PLC0415
    from tunewright.trainer.stage import run  # noqa: PLC0415

    spec = TrainingSpec.from_mapping(settings)
    dtype = compute_dtype(spec.bnb_4bit_compute_dtype, cuda=False)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("dataset", "output"):
            (folder / name).mkdir()
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "abcdefgh" * 80}]
        text = "".join(json.dumps({"id": str(number), "messages": messages}) + "\n" for number in range(4))
        (folder / "dataset" / "train.jsonl").write_text(text, encoding="utf-8")
        report = Clock(folder / "checkpoints")
        run(spec, {"dataset": folder / "dataset", "base": base}, folder / "output", report)
    return {
        "peak_gb": round(_peak_bytes() / 1e9, 3),
        "bytes_a_value": dtype.itemsize,
        "tokens_a_second": 2 * spec.max_length / (report.ends[1] - report.ends[0]),
        "flops": _product(dtype),
    }


def _peak_bytes() -> int:
    """Return the peak of this program's own RSS: ru_maxrss also counts what the parent held when it started us."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Clock(Recorder):
    """Notes the CPU time at which each step was told."""

    ends: list[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ends = []

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Note a step's end."""
        super().progress(step, total, unit=unit, **figures)
        if "loss" in figures:
            self.ends.append(time.process_time())


def _product(dtype: Any) -> float:  # noqa: ANN401 - a torch.dtype
    """Return the operations a second of a large matrix product."""
    import torch  # noqa: PLC0415

    left, right = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(5):
        began = time.process_time()
        torch.mm(left, right)
        seconds.append(time.process_time() - began)
    return 2 * _SIDE**3 / min(seconds)


def main() -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("h100", "cpu"):
        part = commands.add_parser(name)
        part.add_argument("--out", type=Path, help="JSON file in which this part is replaced")
        part.add_argument("--seconds", type=float, default=1200, help="after these, no further run is begun (cpu)")
    commands.add_parser("make").add_argument("base", type=Path)
    alone = commands.add_parser("one")
    alone.add_argument("base", type=Path)
    alone.add_argument("settings", type=json.loads)
    given = parser.parse_args()
    if given.command == "make":
        make(given.base)
    elif given.command == "one":
        print(json.dumps(one(given.base, given.settings)), flush=True)
    else:
        found = h100() if given.command == "h100" else cpu(given.seconds)
        for row in found:
            print(json.dumps(row))
        if given.out:
            document = json.loads(given.out.read_bytes()) if given.out.is_file() else {"benchmark": "vram_plan"}
            document[given.command] = found
            given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
