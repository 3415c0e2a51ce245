"""One large file through the whole of data preparation: memory of all its processes together, time, rows.

Rows are chats of about 1.1 kB, put together from sentences of real packages as in `dataprep_pipeline.py`: 60 %
English, 5 % exact twins of an earlier row and 5 % near ones, HTML in 5 %, line ends of Windows in 2 %, contacts in 2 %,
refusals in 1 %. They are written as bytes, so that ten gigabytes take minutes. About three times the file's size is
needed on disk beside it.

Run: ``PYTHONPATH=FOLDER python -m bench.dataprep_stream --gigabytes 10 --folder BIG --load "what else ran"``; FOLDER
holds what requirements/bench.txt names. Prints one JSON line; what it made in BIG goes at the end.
"""

# ruff: noqa: PLR2004, S311 - shares of planted dirt need plain, seeded chance

import argparse
import json
import platform
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from bench.dataprep_pipeline import REFUSALS, chinese, english, watch
from tunewright.dataprep.pool import processors

_ROW = b'{"messages":[{"role":"user","content":"%b"},{"role":"assistant","content":"%b"}]}\n'
_EARLIER = 50_000
"""Rows that twins are made of."""


def write_rows(path: Path, target_bytes: int, seed: int = 7) -> int:
    """Write rows until the file has so many bytes; return how many."""
    rng = random.Random(seed)
    languages = (
        ([_escaped(text) for text in english()], b" ", 900),
        ([_escaped(text) for text in chinese()], b"", 990),
    )
    refusals = [_escaped(text) for text in REFUSALS]
    earlier: list[tuple[bytes, bytes]] = []
    size = rows = 0
    with path.open("wb", 1 << 22) as file:
        while size < target_bytes:
            kind = rng.random()
            if kind < 0.1 and earlier:
                question, answer = earlier[int(rng.random() * len(earlier))]
                answer = answer if kind < 0.05 else answer + b" number %d" % rows
            else:
                question, answer = _fresh(rng, languages[rng.random() >= 0.6], refusals, rows)
                if rng.random() < 0.02:
                    _remember(earlier, (question, answer), rng)
            size += file.write(_ROW % (question, answer))
            rows += 1
    return rows


def _escaped(text: str) -> bytes:
    return orjson.dumps(text)[1:-1]


def _fresh(
    rng: random.Random, language: tuple[list[bytes], bytes, int], refusals: list[bytes], number: int
) -> tuple[bytes, bytes]:
    sentences, glue, wanted = language
    question, parts = sentences[int(rng.random() * len(sentences))], list[bytes]()
    size = len(question)
    while size < wanted:
        parts.append(sentences[int(rng.random() * len(sentences))])
        size += len(parts[-1])
    kind, answer = rng.random(), glue.join(parts)
    if kind < 0.05:
        answer = b"".join(b"<p>%b</p>\\n" % part for part in parts)
    elif kind < 0.06:
        answer += b" (write to ada.lovelace%d@mail-host.org)" % number
    elif kind < 0.07:
        answer += b" (call +44 20 7946 1123)"
    elif kind < 0.09:
        answer = b"\\r\\n".join(parts)
    elif kind < 0.1:
        answer += b" " + refusals[number & 1]
    return question, answer


def _remember(earlier: list[tuple[bytes, bytes]], row: tuple[bytes, bytes], rng: random.Random) -> None:
    if len(earlier) < _EARLIER:
        earlier.append(row)
    else:
        earlier[int(rng.random() * _EARLIER)] = row


def measured(folder: Path) -> dict[str, Any]:
    """Run the stage over `folder`/in, its output beside it; return what it cost, of all its processes."""
    output, spec = folder / "out", folder / "spec.yaml"
    output.mkdir()
    spec.write_text("{}\n")
    command = [sys.executable, "-m", "tunewright.dataprep", "run", str(spec)]
    command += ["--input", f"upload_000={folder / 'in'}", "--output", str(output)]
    begin, peak = time.perf_counter(), [0]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        threading.Thread(target=watch, args=(process.pid, peak, 0.5), daemon=True).start()
        code = process.wait()
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads((output / "report.json").read_bytes())
    figures = {name: report[name] for name in ("rows_in", "rows_out", "dropped", "fingerprint")}
    cost = {"seconds": round(time.perf_counter() - begin), "cpu_seconds": round(used.ru_utime + used.ru_stime)}
    return {**figures, **cost, "peak_bytes": peak[0]}


def main() -> None:
    """Make the file, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--folder", type=Path, required=True, help="a folder that is not there yet, on a large disk")
    parser.add_argument("--load", default="not said", help="what else ran on the machine")
    asked = parser.parse_args()
    (asked.folder / "in").mkdir(parents=True)
    try:
        path = asked.folder / "in" / "rows.jsonl"
        write_rows(path, int(asked.gigabytes * 10**9))
        size, found = path.stat().st_size, measured(asked.folder)
    finally:
        shutil.rmtree(asked.folder)
    about = {
        "machine": f"{platform.machine()}, {processors()} cores, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "command": "PYTHONPATH=FOLDER python -m bench.dataprep_stream --folder BIG",
        "load": asked.load,
    }
    per_row = round(1e6 * found["cpu_seconds"] / found["rows_in"], 1)
    print(
        json.dumps(
            {"benchmark": "dataprep_stream", "bytes": size, **found, "cpu_microseconds_per_row": per_row, **about}
        )
    )


if __name__ == "__main__":
    main()
