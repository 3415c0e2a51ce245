"""The whole of data preparation in two processes, beside datasketch's near-duplicate stage alone, in one run.

Rows of about 1 kB, 60 % English and 40 % Chinese, are put together from sentences of real packages, one half as chat
messages, the other as instructions. Planted: 5 % exact and 5 % near twins; HTML in 5 %, an e-mail address or a phone
number in 2 %, carriage returns in 2 %, an assistant's refusal in 1 %. The peer takes a sample of the same rows.

Run: ``PYTHONPATH=FOLDER python -m bench.dataprep_pipeline --load "what else ran"``; FOLDER holds what
requirements/bench.txt names.
Prints one JSON line.
"""

# ruff: noqa: PLR2004, S311 - shares of planted dirt need plain, seeded chance

import argparse
import importlib
import json
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import near_duplicates as peers
from tunewright.chassis.stage import Severity
from tunewright.dataprep import features, rules
from tunewright.dataprep.audit import AUDIT_FILE
from tunewright.dataprep.pool import processors
from tunewright.dataprep.spec import BASE, DataprepSpec
from tunewright.dataprep.stage import run
from tunewright.dataprep.tokens import TokenCounter

ENGLISH = re.compile(r"[A-Z][^\n\"\\{}<>&]{60,400}?[.!?](?= |\\n|\")")
CHINESE = re.compile(r"[^\n\r\t]{30,200}")
REFUSALS = (
    "As an AI language model, I cannot give an opinion on that.",
    "作为一个人工智能语言模型，我无法回答这个问题。",
)
STEPS = {
    "read and parse": ("mapping", "_read"),
    "scan for guards": ("rules", "_Texts"),
    "clean": ("rules", "_clean"),
    "personal data": ("rules", "_mask"),
    "filters": ("rules", "_reject_sizes", "_reject_words", "_reject_form"),
    "tokens": ("mapping", "_tokens"),
    "features": ("features", "features"),
    "scratch files": ("scratch", "write_block"),
    "duplicates, split": ("stage", "decide"),
    "write": ("stage", "_write"),
    "fingerprint, report": ("stage", "fingerprint", "build_report", "render"),
}
"""Step → the module of the room, and the functions, whose seconds are counted as it."""


def english() -> list[str]:
    """Return different sentences, at most 800 of a file."""
    found: dict[str, None] = {}
    for text in peers.package_texts("evals"):
        own = dict.fromkeys(ENGLISH.findall(text[:2_000_000]))
        found.update(dict.fromkeys(list(own)[:800]))
    return list(found)


def chinese() -> list[str]:
    """Return different explanations of words."""
    found: dict[str, None] = {}
    for text in peers.package_texts("jionlp"):
        found.update(dict.fromkeys(CHINESE.findall(text)))
    return [text for text in found if sum("一" <= sign <= "鿿" for sign in text) > 0.7 * len(text)]


def make_rows(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield questions with their answers."""
    rng = random.Random(seed)
    languages = ((english(), " ", 900), (chinese(), "", 330))
    earlier: list[tuple[str, str]] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.1 and earlier:
            question, answer = rng.choice(earlier)
            yield question, answer if kind < 0.05 else answer + " " + answer[:5]
            continue
        sentences, glue, size = languages[rng.random() < 0.4]
        question, parts = rng.choice(sentences), [rng.choice(sentences)]
        while sum(map(len, parts)) + len(question) < size:
            parts.append(rng.choice(sentences))
        answer = _dirty(glue.join(parts), parts, rng)
        if len(earlier) < 20_000:
            earlier.append((question, answer))
        yield question, answer


def _dirty(answer: str, parts: list[str], rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.05:
        return "".join(f"<p>{part}</p>\n" for part in parts)
    if kind < 0.07:
        contact = ("write to ada.lovelace@mail-host.org", "call +44 20 7946 1123")[rng.random() < 0.5]
        return f"{answer} ({contact})"
    if kind < 0.09:
        return "\r\n".join(parts)
    return answer + " " + rng.choice(REFUSALS) if kind < 0.1 else answer


def write_rows(count: int, folder: Path, seed: int = 0) -> None:
    """Write the rows into two files."""
    folder.mkdir(parents=True)
    with (folder / "chat.jsonl").open("w", encoding="utf-8") as chat, (folder / "pairs.jsonl").open("w") as pairs:
        for number, (question, answer) in enumerate(make_rows(count, seed)):
            if number % 2:
                row: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
            else:
                turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                row = {"messages": turns}
            (pairs if number % 2 else chat).write(json.dumps(row, ensure_ascii=False) + "\n")


@dataclass
class Quiet:
    """A reporter that says nothing."""

    runtime: Mapping[str, Any]
    checkpoints: Path = Path("unused")
    events: list[str] = field(default_factory=list)

    def progress(self, step: int, total: int, *, unit: str, **figures: float) -> None:
        """Say nothing."""

    def event(self, type_: str, message: str, *, severity: Severity = Severity.INFO, **data: object) -> None:
        """Keep the words."""
        del severity, data
        self.events.append(f"{type_}: {message}")

    def checkpoint(self, directory: Path, step: int) -> None:
        """Have none."""

    def stop_requested(self) -> bool:
        """Never stop."""
        return False

    def raise_if_stopped(self) -> None:
        """Never stop."""


@contextmanager
def counted(seconds: dict[str, float]) -> Iterator[None]:
    """Count the CPU seconds of each step; steps do not hold one another."""
    undo: list[Callable[[], None]] = []
    for step, (module_name, *names) in STEPS.items():
        module = importlib.import_module(f"tunewright.dataprep.{module_name}")
        undo += [_wrap(module, name, step, seconds) for name in names]
    yield
    for back in undo:
        back()


def _wrap(module: Any, name: str, step: str, seconds: dict[str, float]) -> Callable[[], None]:  # noqa: ANN401 - a module
    function = getattr(module, name)

    def timed(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the step takes and gives
        start = time.process_time()
        result = function(*arguments, **named)
        seconds[step] += time.process_time() - start
        return result

    setattr(module, name, timed)
    return lambda: setattr(module, name, function)


def child(folder: Path, workers: int, *, steps: bool, base: Path | None) -> dict[str, Any]:
    """Run the stage in this process over a folder of rows; return what it cost; with a base, tokens are counted."""
    inputs = {"upload_000": folder, **({BASE: base} if base else {})}
    rules.warm()
    features.warm()
    started = time.process_time()
    seconds: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as output:
        begin, before = time.perf_counter(), peers.cpu_seconds()
        if steps:
            with counted(seconds):
                manifest = run(DataprepSpec(), inputs, Path(output), Quiet({"workers": workers}))
        else:
            manifest = run(DataprepSpec(), inputs, Path(output), Quiet({"workers": workers}))
        wall, cpu = time.perf_counter() - begin, peers.cpu_seconds() - before
        tokens = _mean_tokens(Path(output)) if base else 0.0
    metrics = manifest.metrics
    found = {name: metrics[name] for name in ("rows_in", "rows_out", "dropped", "fingerprint")}
    spread = {step: round(value, 2) for step, value in seconds.items()}
    rest = {"the rest": round(cpu - sum(seconds.values()), 2)} if steps else {}
    found["mean_tokens"] = tokens
    return {**found, "seconds": wall, "cpu_seconds": cpu, "start_seconds": started, "steps": {**spread, **rest}}


def _mean_tokens(output: Path) -> float:
    """Return the tokens of a training row, as audit.json has them."""
    lengths = json.loads((output / AUDIT_FILE).read_text())["lengths"]["train"]
    return float(sum(size * rows for size, rows in lengths) / sum(rows for _, rows in lengths))


def measured(folder: Path, workers: int, *, steps: bool = False, base: Path | None = None) -> dict[str, Any]:
    """Run `child` in a process of its own; watch the memory of all its processes, shared pages counted once."""
    command = [sys.executable, "-m", "bench.dataprep_pipeline", "--child", str(folder), "--workers", str(workers)]
    command += [*(["--steps"] if steps else []), *(["--base", str(base)] if base else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        peak = [0]
        watcher = threading.Thread(target=watch, args=(process.pid, peak), daemon=True)
        watcher.start()
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return {**json.loads(said.splitlines()[-1]), "peak_bytes": peak[0]}


def watch(root: int, peak: list[int], pause: float = 0.05) -> None:
    """Keep in `peak` the most bytes that a process and all below it had together, until it is gone."""
    while (size := _memory(root)) is not None:
        peak[0] = max(peak[0], size)
        time.sleep(pause)


def _memory(root: int) -> int | None:
    """Return the proportional set size of a process and all below it, bytes; None once it is gone."""
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        try:
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            total += int(re.search(r"Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text())[1]) * 1024  # type: ignore[index]  # every rollup has one
        except (OSError, TypeError):
            if pid == root:
                return None
    return total


def peer(count: int) -> dict[str, float]:
    """Return how many rows a second datasketch's near-duplicate stage takes, and we in the same stage."""
    peers.ROWS[:] = [f"{question} {answer}" for question, answer in make_rows(count, seed=1)]
    _, theirs, their_cpu = peers.timed(peers.peer)
    peers.ours()  # loads what is compiled
    _, own, own_cpu = peers.timed(peers.ours)
    return {
        "rows": count,
        "datasketch_rows_per_second": round(count / theirs),
        "datasketch_rows_per_cpu_second": round(count / their_cpu),
        "near_stage_times": round(theirs / own, 1),
        "near_stage_times_by_cpu": round(their_cpu / own_cpu, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--peer-rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--base", type=Path, help="folder with a base's tokenizer and template, to count tokens too")
    parser.add_argument("--load", default="not said", help="what else ran on the machine")
    parser.add_argument("--keep", type=Path, help="folder for the rows, made if it is not there, used if it is")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(asked.child, asked.workers, steps=asked.steps, base=asked.base)))
        return
    with tempfile.TemporaryDirectory() as made:
        print(json.dumps(_measure(asked, asked.keep or Path(made))))


def _measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    whole, quarter = folder / str(asked.rows), folder / str(asked.rows // 4)
    for path in (whole, quarter):
        if not path.exists():
            write_rows(int(path.name), path)
    size = sum(path.stat().st_size for path in whole.iterdir())
    few, done, alone = (
        measured(quarter, asked.workers),
        measured(whole, asked.workers),
        measured(quarter, 1, steps=True),
    )
    counted = measured(whole, asked.workers, base=asked.base) if asked.base else None
    beside = peer(asked.peer_rows) if asked.peer_rows else {}
    speed, cpu_speed = asked.rows / done["seconds"], asked.rows / done["cpu_seconds"]
    return {
        "benchmark": "dataprep_pipeline",
        "rows": asked.rows,
        "mean_bytes": round(size / asked.rows),
        "workers": asked.workers,
        "rows_per_second": round(speed),
        "rows_per_cpu_second": round(cpu_speed),
        "start_seconds": round(done["start_seconds"], 2),
        "with_tokens": _with_tokens(counted, asked) if counted else None,
        "times_datasketch_near_stage_alone": round(speed / beside["datasketch_rows_per_second"], 1) if beside else None,
        "times_datasketch_near_stage_alone_by_cpu": round(cpu_speed / beside["datasketch_rows_per_cpu_second"], 1)
        if beside
        else None,
        "near_duplicate_stage": beside,
        "peak_bytes": done["peak_bytes"],
        "bytes_per_further_row": round((done["peak_bytes"] - few["peak_bytes"]) / (asked.rows - asked.rows // 4)),
        "rows_out": done["rows_out"],
        "dropped": done["dropped"],
        "fingerprint": done["fingerprint"],
        "cpu_microseconds_per_row_by_step": {
            step: round(value / alone["rows_in"] * 1e6, 1) for step, value in alone["steps"].items()
        },
        "machine": f"{platform.machine()}, {processors()} cores, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "command": "PYTHONPATH=FOLDER python -m bench.dataprep_pipeline",
        "load": asked.load,
    }


def _with_tokens(counted: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    """Return what the same rows took when their tokens were counted and the dataset was audited."""
    counter = TokenCounter(asked.base)
    return {
        "tokenizer_sha256": counter.base.sha256,
        "counted_by": counter.engine,
        "mean_tokens": round(counted["mean_tokens"]),
        "rows_per_second": round(asked.rows / counted["seconds"]),
        "rows_per_cpu_second": round(asked.rows / counted["cpu_seconds"]),
        "peak_bytes": counted["peak_bytes"],
    }


if __name__ == "__main__":
    main()
