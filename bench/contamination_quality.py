"""Precision and recall of the search for test rows in training rows, on real texts with planted overlaps, and its cost.

Test sets: real benchmark rows of the package evals (their own shape) and Chinese texts of jionlp, as questions.
Training rows: other real texts of the same packages and of botocore's documentation, among which a seeded generator
plants test rows: whole in another prompt, in other case and punctuation, three fifths of one, one with every thirtieth
word changed, buried in a long document; and what must not be found: a quarter of one, its words in another order.

Run: ``python -m bench.contamination_quality --data FOLDER [--out FILE] [--speed]``; FOLDER is a
``pip install --target`` folder with evals and jionlp. Prints one JSON line.

Overlaps are planted of questions of 40 words (80 characters of Chinese) and more. Rows of the same benchmark that are
not in the test set are counted apart, as neither right nor wrong: some share a story or a passage with it word by word.
"""

# ruff: noqa: S311 - planted overlaps need plain, seeded chance

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.dataprep_quality import prose, score
from tunewright.dataprep.contamination import matching
from tunewright.dataprep.contamination.table import Table, TestRows, build
from tunewright.dataprep.parts import Parts

_SETS = (
    "logiqa-logical-reasoning-plus",
    "polish-exams-qa",
    "theory_of_mind",
    "heart-disease",
    "resistor_ohm_calculator",
)
"""Folders of evals: long passages, short questions in Polish, stories alike, forms filled in, one template."""
_ROWS_A_SET = 300

Row = list[tuple[str, str]]


def benchmark_rows(folder: Path, name: str) -> list[Row]:
    """Return the rows of a benchmark: its messages but the system's, and the ideal answer."""
    rows = []
    for path in sorted((folder / "evals/registry/data" / name).rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            value = json.loads(line)
            turns = value["input"] if isinstance(value.get("input"), list) else []
            row = [("user", str(turn["content"])) for turn in turns if turn["role"] == "user"]
            if row:
                ideal = value.get("ideal", "")
                rows.append([*row, ("assistant", ideal if isinstance(ideal, str) else json.dumps(ideal))])
    return rows


def _words(text: str) -> tuple[list[str], str]:
    return (list(text), "") if _is_chinese(text) else (text.split(), " ")


def _is_chinese(text: str) -> bool:
    return sum("\u4e00" <= character <= "\u9fff" for character in text) > len(text) / 3


def _part(text: str, share: float, rng: random.Random) -> str:
    words, glue = _words(text)
    size = round(len(words) * share)
    start = rng.randrange(len(words) - size + 1)
    return glue.join(words[start : start + size])


def _edited(text: str, rng: random.Random) -> str:
    words, glue = _words(text)
    for start in range(0, len(words), 60 if not glue else 30):
        words[min(len(words) - 1, start + rng.randrange(30))] = "其" if not glue else "whatever"
    return glue.join(words)


def _shuffled(text: str, rng: random.Random) -> str:
    words, glue = _words(text)
    rng.shuffle(words)
    return glue.join(words)


PLANTED: dict[str, Callable[[str, list[str], random.Random], str]] = {
    "whole": lambda text, others, rng: f"{rng.choice(('Answer this:', 'Q:', '请回答：'))}\n{text}",  # noqa: ARG005
    "form": lambda text, others, rng: text.upper().replace(",", " ;").replace(".", "").replace(" ", "  "),  # noqa: ARG005
    "buried": lambda text, others, rng: f"{rng.choice(others)}\n{text}\n{rng.choice(others)}\n{rng.choice(others)}",
    "three_fifths": lambda text, others, rng: _part(text, 0.6, rng),  # noqa: ARG005
    "every_30th_word_changed": lambda text, others, rng: _edited(text, rng),  # noqa: ARG005
}
NOT_PLANTED: dict[str, Callable[[str, list[str], random.Random], str]] = {
    "a_quarter": lambda text, others, rng: f"{rng.choice(others)} {_part(text, 0.25, rng)}",
    "other_order": lambda text, others, rng: _shuffled(text, rng),  # noqa: ARG005
}


def measure(tests: list[Row], held: list[Row], others: list[str], table: Table, rng: random.Random) -> dict[str, Any]:
    """Return by kind of overlap how many planted rows were found, and how many others were."""
    long = [row for row in tests if len(_words(row[0][1])[0]) >= (80 if _is_chinese(row[0][1]) else 40)]
    rows: list[Row] = []
    kinds: list[str] = []
    for kind, change in {**PLANTED, **NOT_PLANTED}.items():
        for row in rng.sample(long, min(200, len(long))):
            rows.append([("user", change(row[0][1], others, rng)), ("assistant", "I do not know.")])
            kinds.append(kind)
    for name, more in (
        ("other_texts", [[("user", "Explain."), ("assistant", text)] for text in others]),
        ("same_benchmark", held),
    ):
        rows += more
        kinds += [name] * len(more)
    found = {int(number) for number in matching.match(Parts.of(rows), table, 0.5).rows}
    hits, totals = Counter(kinds[number] for number in found), Counter(kinds)
    right = sum(hits[kind] for kind in PLANTED)
    wrong = sum(hits[kind] for kind in (*NOT_PLANTED, "other_texts"))
    return {
        "all": score(right, wrong, sum(totals[kind] for kind in PLANTED) - right),
        "found": {kind: f"{hits[kind]} of {totals[kind]}" for kind in totals},
    }


def speed(others: list[str], table: Table) -> dict[str, float]:
    """Return the cost of the search on one core, on rows of about 1 kB; the compiled code is loaded before."""
    joined = "\n".join(others).encode()[: 16 << 20].decode("utf-8", "ignore")
    rows: list[Row] = [
        [("user", "Explain."), ("assistant", joined[at : at + 700])] for at in range(0, len(joined), 700)
    ]
    parts = Parts.of(rows)
    matching.warm(table)
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        matching.match(parts, table, 0.5)
        seconds.append(time.process_time() - begun)
    best = min(seconds)
    return {
        "rows": len(rows),
        "bytes_a_row": round(len(parts.data) / len(rows)),
        "rows_per_cpu_second": round(len(rows) / best),
        "mb_per_cpu_second": round(len(parts.data) / best / 1e6, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--speed", action="store_true", help="also the cost on one core; only on a quiet machine")
    options = parser.parse_args()
    rng = random.Random(20261124)
    texts = prose(options.data, rng)
    rng.shuffle(texts)
    chinese = [text for text in texts if _is_chinese(text)]
    sets: dict[str, tuple[list[Row], list[Row]]] = {}
    for name in _SETS:
        rows = benchmark_rows(options.data, name)
        rng.shuffle(rows)
        sets[name] = rows[:_ROWS_A_SET], rows[_ROWS_A_SET : 3 * _ROWS_A_SET]
    sets["jionlp"] = [[("user", text), ("assistant", "是")] for text in chinese[:_ROWS_A_SET]], []
    used = set(chinese[:_ROWS_A_SET])
    others = [text for text in texts if text not in used]
    pieces = [
        TestRows(number, number, range(1, len(rows) + 1), Parts.of(rows))
        for number, (rows, _) in enumerate(sets.values())
    ]
    with tempfile.TemporaryDirectory() as folder:
        table = build(pieces, list(sets), list(sets), 13, Path(folder))
        by_set = {name: measure(rows, held, others, table, rng) for name, (rows, held) in sets.items()}
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        words = sum(len(_words(text)[0]) for rows, _ in sets.values() for row in rows for _, text in row)
        result: dict[str, Any] = {
            "benchmark": "contamination_quality",
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "command": "make bench-dataprep",
            "by_set": by_set,
            "boilerplate_ngrams": dict(zip(table.names, table.boilerplate, strict=True)),
            "table": {"ngrams": len(table.grams), "bytes": size, "bytes_a_word": round(size / words, 1)},
        }
        if options.speed:
            result["speed_one_core"] = speed(others, table)
    if options.out:
        options.out.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for name, one in by_set.items():
        print(f"{name:32} {one['all']} {one['found']}", file=sys.stderr)
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    main()
