"""What readers take and give: files to read, how to read them, and the rows that come out or the problems instead.

Knows which files of an input are data. Opens none of them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tunewright.chassis.errors import InvalidData, Violation

MAX_LINE_BYTES = 128 << 20
"""Bytes of the longest row that is held in memory; longer ones become a problem and are passed over."""
DATA_ENDINGS = frozenset(
    {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".parquet", ".pq", ".txt", ".text", ".md", ".html", ".htm"}
)
COMPRESSED_ENDINGS = frozenset({".gz", ".zst", ".zstd", ".bz2", ".xz"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How one file is to be read."""

    format: str = "auto"
    """A shape of `shapes.Shape`, or `auto`."""
    fields: tuple[tuple[str, str], ...] = ()
    """(our name, the file's name); the file's may be a path such as `data.question`."""
    encoding: str = "auto"
    """Name of a codec, or `auto`."""
    delimiter: str = "auto"
    """One character between the columns of CSV, `tab`, or `auto`."""
    piece_chars: int = 8_000
    """Characters. Documents (text, HTML) longer than this become several rows."""


@dataclass(frozen=True, slots=True)
class Source:
    """One raw file."""

    name: str
    """Shown to people and written into each row: the file's path in its input, with the input's name where two are
    equal."""
    path: Path
    size_bytes: int
    input: str = ""
    """Name of the input that it belongs to."""
    reading: Reading = Reading()


class Found(NamedTuple):
    """The files of all inputs."""

    sources: list[Source]
    skipped: list[str]
    """Names of files in folders that are no data by their ending, or are hidden."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row cannot be used."""

    reason: str
    """lower_snake_case, the key under which it is counted."""
    field: str
    """Path inside the row, such as `messages[2].role`; empty for the row itself."""
    description: str


class Line(NamedTuple):
    """One row that is not blank."""

    number: int
    """From 1: the line where it begins, blank lines counted; in JSON arrays and Parquet the row (`Layout.unit`)."""
    value: Any
    """The parsed value; None where there is a problem."""
    problem: Problem | None
    raw: bytes
    """The row's bytes in UTF-8 where the file has it as text of its own; else empty."""


def find_sources(inputs: Mapping[str, Path], reading: Mapping[str, Reading] | Reading = Reading()) -> Found:
    """Return the files of all inputs (name → a file, or a folder with files at any depth), in order of input and path.

    Args:
        inputs: input name → path.
        reading: how to read the files of each input, or of all; inputs without one are read by the defaults.

    Raises:
        InvalidData: an input does not exist, or holds no file that may be data.
    """
    found: list[tuple[str, str, Path]] = []
    skipped: list[str] = []
    for name in sorted(inputs):
        taken, left = _files(name, inputs[name])
        found += [(name, shown, path) for shown, path in taken]
        skipped += left
    counts = Counter(shown for _, shown, _ in found)
    sources = [
        Source(
            shown if counts[shown] == 1 else f"{name}/{shown}",
            path,
            path.stat().st_size,
            name,
            reading if isinstance(reading, Reading) else reading.get(name, Reading()),
        )
        for name, shown, path in found
    ]
    return Found(sources, skipped)


def as_violation(source: Source, number: int, problem: Problem) -> Violation:
    """Return the problem with its place, `file.jsonl:17:field`."""
    place = f"{source.name}:{number}"
    return Violation(f"{place}:{problem.field}" if problem.field else place, problem.description)


def excerpt_of(line: Line, chars: int) -> str:
    """Return the beginning of a row for people, at most `chars` characters."""
    if line.raw or line.value is None:
        return line.raw[: 4 * chars].decode("utf-8", "replace")[:chars]
    return orjson.dumps(line.value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()[:chars]


def endings(name: str) -> tuple[str, str]:
    """Return the ending that tells the kind of data, and the one of its compression; empty where there is none."""
    path = Path(name.lower())
    if path.suffix in COMPRESSED_ENDINGS:
        return Path(path.stem).suffix, path.suffix
    return path.suffix, ""


def _files(name: str, path: Path) -> tuple[list[tuple[str, Path]], list[str]]:
    if path.is_file():
        return [(path.name, path)], []
    if not path.is_dir():
        raise InvalidData(f"input {name}: {path} does not exist", remedy="Check the path.")
    entries = [(entry.relative_to(path).as_posix(), entry) for entry in sorted(_walk(path))]
    if not entries:
        raise InvalidData(f"input {name}: {path.name} is a folder without files", remedy="Name the file itself.")
    if len(entries) == 1:
        return entries, []
    taken = [entry for entry in entries if _is_data(entry[0])]
    if not taken:
        names = ", ".join(shown for shown, _ in entries[:8])
        raise InvalidData(
            f"input {name}: {path.name} holds no data file: {names}",
            remedy=f"Known endings are {', '.join(sorted(DATA_ENDINGS))}, each also with .gz, .zst, .bz2 or .xz.",
        )
    return taken, [shown for shown, _ in entries if not _is_data(shown)]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder. Links to folders are not followed: they may lead in circles."""
    for entry in folder.iterdir():
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _is_data(shown: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in shown.split("/"))
    return not hidden and endings(shown)[0] in DATA_ENDINGS
