"""A merge of real shapes: our streamed one beside PEFT's load, merge_and_unload and save, and beside a plain copy.

    python -m bench.merge make SHAPE FOLDER      a bf16 model of random weights and a rank-16 adapter on all its layers
    python -m bench.merge one WHO FOLDER         one participant: ours, peft or copy
    python -m bench.merge all SHAPE FOLDER       make, then each in a process of its own, the order turned each time

Each participant starts with the base out of the page cache and ends when its output is on the disk (fsync). Peak memory
is the process's highest resident set. FOLDER takes the model twice; its contents are removed at the end. Knows nothing
of how any works.
"""

# ruff: noqa: PLC0415 - what a participant imports is part of its time and memory, and only of its own

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
             "num_key_value_heads": 2, "vocab_size": 259, "tie_word_embeddings": True},
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
                     "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
}  # fmt: skip
SHAPES["qwen2.5-7b, 8 of its 28 layers"] = {**SHAPES["qwen2.5-7b"], "num_hidden_layers": 8}
WHO = ("ours", "peft", "copy")
RANK, ALPHA = 16, 32
SHARD_BYTES = 5_000_000_000
_POOL = 1 << 24


def weights_of(shape: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of the tensors of a Qwen2 model."""
    hidden, middle = shape["hidden_size"], shape["intermediate_size"]
    keys = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", (shape["vocab_size"], hidden)
    yield "model.embed_tokens.weight", (shape["vocab_size"], hidden)
    for layer in range(shape["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{name}{norm}.weight", (hidden,)
        for part, outputs in (("q", hidden), ("k", keys), ("v", keys)):
            yield f"{name}self_attn.{part}_proj.bias", (outputs,)
            yield f"{name}self_attn.{part}_proj.weight", (outputs, hidden)
        yield f"{name}self_attn.o_proj.weight", (hidden, hidden)
        for part in ("gate", "up"):
            yield f"{name}mlp.{part}_proj.weight", (middle, hidden)
        yield f"{name}mlp.down_proj.weight", (hidden, middle)
    yield "model.norm.weight", (hidden,)


def make(shape: dict[str, Any], folder: Path, *, sparse: bool = False) -> None:
    """Write FOLDER/base and FOLDER/adapter; `sparse`: all weights are zeros that take no disk."""
    base, adapter = folder / "base", folder / "adapter"
    for path in (base, adapter):
        path.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    pool = (draw.standard_normal(_POOL, dtype=np.float32) * 0.02).view(np.uint32) >> 16
    _write_model(base, list(weights_of(shape)), None if sparse else pool.astype(np.uint16), draw)
    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "dtype": "bfloat16",
        "max_position_embeddings": 32768, **shape,
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config), "utf-8")
    _write_adapter(adapter, shape, draw)


def _write_model(base: Path, tensors: list[tuple[str, tuple[int, ...]]], pool: Any, draw: Any) -> None:  # noqa: ANN401 - numpy's
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    size = 0
    for name, shape in tensors:
        count = 2 * int(np.prod(shape))
        if size and size + count > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += count
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        one = len(shards) == 1
        file = "model.safetensors" if one else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {name: file for name, _ in shard}
        with (base / file).open("wb") as out:
            out.write(_header(shard))
            for _, shape in shard:
                _write_random(out, int(np.prod(shape)), pool, draw)
            out.flush()
            os.fsync(out.fileno())
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (base / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


def _header(shard: list[tuple[str, tuple[int, ...]]]) -> bytes:
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shard:
        end = offset + 2 * int(np.prod(shape))
        document[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_random(out: Any, count: int, pool: Any, draw: Any) -> None:  # noqa: ANN401 - a file, numpy's
    if pool is None:
        out.truncate(out.seek(2 * count, os.SEEK_CUR))
        return
    while count:
        start = int(draw.integers(0, len(pool) // 2))
        piece = pool[start : start + count]
        out.write(piece.tobytes())
        count -= len(piece)


def _write_adapter(adapter: Path, shape: dict[str, Any], draw: Any) -> None:  # noqa: ANN401 - numpy's
    from safetensors.numpy import save_file

    tensors = {}
    for name, size in weights_of(shape):
        if "_proj.weight" in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = draw.standard_normal((RANK, size[1]), dtype=np.float32) * 0.01
            tensors[f"{module}.lora_B.weight"] = draw.standard_normal((size[0], RANK), dtype=np.float32) * 0.01
    save_file(tensors, adapter / "adapter_model.safetensors")
    targets = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets,
        "base_model_name_or_path": "random", "bias": "none", "inference_mode": True,
    }  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")


def merge_ours(folder: Path, output: Path) -> None:
    """Plan and write, as the stage does before it measures."""
    from tunewright.merger.adapter_config import read_adapter_config
    from tunewright.merger.headers import read_headers
    from tunewright.merger.plan import plan_merge
    from tunewright.merger.streaming import write_merged

    tied = json.loads((folder / "base" / "config.json").read_bytes())["tie_word_embeddings"]
    adapter = folder / "adapter"
    plan = plan_merge(adapter, read_adapter_config(adapter), read_headers(folder / "base"), tied=tied)
    write_merged(plan, output, SHARD_BYTES, lambda _done, _total: None)


def merge_peft(folder: Path, output: Path) -> None:
    """What PEFT's documentation says."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder / "base"), dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, str(folder / "adapter")).merge_and_unload().save_pretrained(
        str(output), max_shard_size=SHARD_BYTES
    )


def merge_copy(folder: Path, output: Path) -> None:
    """Copy the base's weights and merge nothing: what the disk allows."""
    for path in (folder / "base").glob("*.safetensors"):
        with path.open("rb", buffering=0) as source, (output / path.name).open("wb", buffering=0) as target:
            while data := source.read(8 << 20):
                target.write(data)


def one(who: str, folder: Path) -> None:
    """Run one participant and print its figures as a JSON line."""
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    started = time.perf_counter()
    {"ours": merge_ours, "peft": merge_peft, "copy": merge_copy}[who](folder, output)
    for path in output.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - started, 2),
                "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
                "peak_rss_mb": round(usage.ru_maxrss / 1024),
                "bytes_written": sum(path.stat().st_size for path in output.glob("*.safetensors")),
            }
        )
    )


def drop_from_cache(folder: Path) -> None:
    """Let the kernel forget the base's pages."""
    for path in folder.glob("base/*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_all(name: str, folder: Path, rounds: int, who: list[str], *, sparse: bool) -> dict[str, Any]:
    """Run all participants `rounds` times and return the figures of each, the median by time."""
    make(SHAPES[name], folder, sparse=sparse)
    runs: dict[str, list[dict[str, Any]]] = {participant: [] for participant in who}
    for number in range(rounds):
        for participant in who[number % len(who) :] + who[: number % len(who)]:
            drop_from_cache(folder)
            command = [sys.executable, "-m", "bench.merge", "one", participant, str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[participant].append(json.loads(done.stdout.splitlines()[-1]))
            shutil.rmtree(folder / "output")
    figures = {name: sorted(found, key=lambda run: run["seconds"])[len(found) // 2] for name, found in runs.items()}
    ours = figures["ours"]
    ratios = {f"times_faster_than_{other}": round(figures[other]["seconds"] / ours["seconds"], 2) for other in who[1:]}
    if "peft" in figures:
        ratios["cpu_times_less_than_peft"] = round(figures["peft"]["cpu_seconds"] / ours["cpu_seconds"], 2)
        ratios["memory_times_less_than_peft"] = round(figures["peft"]["peak_rss_mb"] / ours["peak_rss_mb"], 2)
    return {
        "benchmark": "merge",
        "shape": name,
        "sparse": sparse,
        "weight_bytes": sum(path.stat().st_size for path in folder.glob("base/*.safetensors")),
        "figures": figures,
        **ratios,
        "runs": runs,
        "load_average": os.getloadavg(),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "packages": {package: version(package) for package in ("torch", "peft", "transformers", "safetensors")},
    }


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("make", "all"):
        sub = commands.add_parser(command)
        sub.add_argument("shape", choices=SHAPES)
        sub.add_argument("folder", type=Path)
        if command == "all":
            sub.add_argument("--rounds", type=int, default=3)
            sub.add_argument("--who", nargs="+", choices=WHO, default=list(WHO))
            sub.add_argument("--sparse", action="store_true", help="zeros that take no disk: for memory, not for time")
    single = commands.add_parser("one")
    single.add_argument("who", choices=WHO)
    single.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "make":
        make(SHAPES[arguments.shape], arguments.folder)
    elif arguments.command == "one":
        one(arguments.who, arguments.folder)
    else:
        try:
            print(
                json.dumps(
                    run_all(arguments.shape, arguments.folder, arguments.rounds, arguments.who, sparse=arguments.sparse)
                )
            )
        finally:
            for name in ("base", "adapter", "output"):
                shutil.rmtree(arguments.folder / name, ignore_errors=True)


if __name__ == "__main__":
    main()
