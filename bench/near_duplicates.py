"""Near-duplicates: this room's sketches, bands and verified pairs beside datasketch's MinHash LSH, in one run.

Rows of about 1 kB, 60 % English and 40 % Chinese, are put together from sentences of real packages; twins with a known
Jaccard similarity are planted. Two processes each. Both see the same shingles: windows of 5 words or 5 characters. On a
busy machine the ratio by CPU seconds says more than the one by the clock.
Prints one JSON line. Knows nothing of the rest of data preparation. Needs requirements/bench.txt.
"""

import argparse
import gzip
import importlib.util
import json
import os
import platform
import random
import re
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep import near_duplicates
from tunewright.dataprep.features import features, warm
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.shingling import Sets, sets
from tunewright.dataprep.spec import Duplicates

SPEC = Duplicates()
BLOCK = 4000
ROWS: list[str] = []
Result = TypeVar("Result")


def package_texts(package: str) -> Iterator[str]:
    """Yield the texts of a package's data files."""
    found = importlib.util.find_spec(package)
    assert found is not None, f"{package} is not installed: see requirements/bench.txt"
    root = Path(str(found.submodule_search_locations[0] if found.submodule_search_locations else found.origin))
    for path in sorted(root.rglob("*")):
        if path.suffix in {".jsonl", ".txt"}:
            yield path.read_text(encoding="utf-8", errors="ignore")
        elif path.name.endswith(".jsonl.gz"):
            yield gzip.decompress(path.read_bytes()).decode("utf-8", "ignore")
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield archive.read(name).decode("utf-8", "ignore")


def sentences(package: str, pattern: str, most: int) -> list[str]:
    """Return different pieces of text of a package that match the pattern."""
    seen: dict[str, None] = {}
    for text in package_texts(package):
        if text.startswith("version https://git-lfs"):
            continue
        seen.update(dict.fromkeys(re.findall(pattern, text)))
        if len(seen) > most:
            break
    return list(seen)


def rows(count: int, rng: random.Random) -> list[list[str]]:
    """Return tokens of rows of about 1 kB."""
    english = sentences("evals", r"[A-Z][a-z]+(?: [a-z,']+){6,30}", 300_000)
    chinese = sentences("jionlp", r"[一-鿿，]{8,60}", 300_000)
    made = []
    for number in range(count):
        if number % 5 < 3:  # noqa: PLR2004 - 60 %
            made.append(" ".join(rng.choices(english, k=12)).split()[:180])
        else:
            made.append(list("".join(rng.choices(chinese, k=30)))[:330])
    return made


def twin(tokens: list[str], similarity: float, rng: random.Random, vocabulary: list[str]) -> list[str]:
    """Return a copy with that similarity: each edit, five tokens from the next, costs five shingles."""
    edits = int(len(tokens) * (1 - similarity) / (5 * (1 + similarity)))
    made = tokens.copy()
    for at in rng.sample(range(0, len(tokens) - 5, 5), edits):
        made[at + 4] = rng.choice(vocabulary)
    return made


def plant(made: list[list[str]], rng: random.Random) -> list[tuple[int, int]]:
    """Replace every tenth row by a twin of an earlier one, English and Chinese in turns; return the pairs."""
    vocabulary = {False: [f"w{n}q" for n in range(5000)], True: [chr(0x3400 + n) for n in range(5000)]}
    pairs = []
    for number in range(9, len(made), 10):
        wanted = 0.8 if number % 20 == 9 else 0.5  # noqa: PLR2004 - in turns
        base = number - (5 if number % 40 < 20 else 7)  # noqa: PLR2004 - the fifth of ten is Chinese, the third English
        chinese = all(len(token) == 1 for token in made[base])
        made[number] = twin(made[base], wanted, rng, vocabulary[chinese])
        pairs.append((base, number))
    return pairs


def fill(count: int) -> list[tuple[int, int]]:
    """Make ROWS, and return the planted pairs. The tokens go here: a collection of garbage would visit each of them."""
    rng = random.Random(0)  # noqa: S311 - test data
    made = rows(count, rng)
    pairs = plant(made, rng)
    ROWS.extend("".join(row) if all(len(token) == 1 for token in row) else " ".join(row) for row in made)
    return pairs


def as_parts(texts: list[str]) -> Parts:
    """Return rows of one question and answer."""
    return Parts.of([[("user", text[: len(text) // 4]), ("assistant", text[len(text) // 4 :])] for text in texts])


def our_block(first: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """Return band keys and identities of a block."""
    found = features(as_parts(ROWS[first : first + BLOCK]), SPEC, seed=0)
    return found.bands, found.identity


def our_sets(numbers: list[int]) -> Sets:
    """Return the sets of some rows."""
    return sets(as_parts([ROWS[number] for number in numbers]), SPEC.shingle)


def ours() -> NDArray[np.int64]:
    """Return for each row the row kept in its place."""
    with get_context("fork").Pool(2) as pool, tempfile.TemporaryDirectory() as folder:
        found = pool.map(our_block, range(0, len(ROWS), BLOCK), chunksize=1)
        bands, identities = (np.concatenate([piece[at] for piece in found]) for at in (0, 1))
        worth = np.ascontiguousarray(identities[:, :8]).view(np.uint64)[:, 0]

        def read_sets(numbers: NDArray[np.int64]) -> Iterator[Sets]:
            pieces = [numbers[at : at + BLOCK].tolist() for at in range(0, len(numbers), BLOCK)]
            return pool.imap(our_sets, pieces)

        alive = np.ones(len(ROWS), np.bool_)
        groups = near_duplicates.find(
            lambda band: bands[:, band].copy(), worth, alive, read_sets, SPEC, Path(folder), lambda: None
        )
    return groups.kept_instead


def peer_block(first: int) -> list[Any]:
    """Return datasketch's MinHashes of a block."""
    from datasketch import MinHash  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - the peer alone

    made = []
    for text in ROWS[first : first + BLOCK]:
        tokens = text.split(" ") if " " in text else list(text)
        glue = " " if " " in text else ""
        shingles = {glue.join(tokens[at : at + 5]).encode() for at in range(max(1, len(tokens) - 4))}
        sketch = MinHash(num_perm=128)
        sketch.update_batch(shingles)
        made.append(sketch)
    return made


def peer() -> list[set[int]]:
    """Return for each row the earlier rows that datasketch holds for similar."""
    from datasketch import MinHashLSH  # noqa: PLC0415 - the peer alone

    with get_context("fork").Pool(2) as pool:
        blocks = pool.map(peer_block, range(0, len(ROWS), BLOCK), chunksize=1)
    index, similar = MinHashLSH(threshold=0.8, num_perm=128), []
    for number, sketch in enumerate(sketch for block in blocks for sketch in block):
        similar.append(set(index.query(sketch)))
        index.insert(number, sketch, check_duplication=False)
    return similar


def timed(function: Callable[[], Result]) -> tuple[Result, float, float]:
    """Return what the function returns, its wall seconds, and its CPU seconds, those of ended children among them."""
    start, before = time.perf_counter(), cpu_seconds()
    result = function()
    return result, time.perf_counter() - start, cpu_seconds() - before


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return float(times.user + times.system + times.children_user + times.children_system)


def shares(pairs: list[tuple[int, int]], hit: list[bool]) -> dict[str, float]:
    """Return the share of planted pairs found, by language and true similarity."""
    result: dict[str, list[bool]] = {}
    for (one, other), found in zip(pairs, hit, strict=True):
        both = our_sets([one, other])
        left, right = np.split(both.whole, both.whole_ends[:1])
        true = len(np.intersect1d(left, right)) / len(np.union1d(left, right))
        language = "english" if " " in ROWS[one] else "chinese"
        for name, fits in (("at_0.8", 0.8 <= true < 0.85), ("at_0.5", 0.45 < true < 0.55)):  # noqa: PLR2004 - bins
            if fits:
                result.setdefault(f"{language}_{name}", []).append(found)
    return {name: round(float(np.mean(values)), 4) for name, values in sorted(result.items())}


def main() -> None:
    """Time both and print the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--load", default="not said", help="what else ran on the machine")
    asked = parser.parse_args()
    pairs = fill(asked.rows)
    warm()
    ours()  # compiled code of the last step is loaded once
    kept, own_seconds, own_cpu = timed(ours)
    similar, peer_seconds, peer_cpu = timed(peer)
    own_hits = [bool(kept[one] == other or kept[other] == one) for one, other in pairs]
    result = {
        "benchmark": "near_duplicates",
        "rows": len(ROWS),
        "mean_bytes": round(sum(len(row.encode()) for row in ROWS) / len(ROWS)),
        "planted_pairs": len(pairs),
        "processes": 2,
        "rows_per_second": round(len(ROWS) / own_seconds),
        "datasketch_rows_per_second": round(len(ROWS) / peer_seconds),
        "times_datasketch": round(peer_seconds / own_seconds, 1),
        "rows_per_cpu_second": round(len(ROWS) / own_cpu),
        "datasketch_rows_per_cpu_second": round(len(ROWS) / peer_cpu),
        "times_datasketch_by_cpu": round(peer_cpu / own_cpu, 1),
        "found": shares(pairs, own_hits),
        "datasketch_found": shares(pairs, [one in similar[other] for one, other in pairs]),
        "rows_dropped": int((kept != np.arange(len(kept))).sum()),
        "machine": f"{platform.machine()}, 2 cores, Python {platform.python_version()}, numpy {np.__version__}",
        "load": asked.load,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
