"""Reads JSON Lines as a stream: files, their lines, the parsed values. Refuses what is no such file, naming it.

Knows nothing of what the rows should hold. Memory: one line at a time, and no line over `MAX_LINE_BYTES` at all.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep.encodings import UTF8_BOM, file_kind, refuse_encoding, refuse_wide_encoding

MAX_LINE_BYTES = 128 << 20
_READ_BYTES = 1 << 20
_HEAD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Source:
    """One raw file."""

    name: str
    """Shown to people and written into each row: the file's own name, with its input's name where two are equal."""
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row cannot be used."""

    reason: str
    """lower_snake_case, the key under which it is counted."""
    field: str
    """Path inside the row, such as `messages[2].role`; empty for the row itself."""
    description: str


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank."""

    number: int
    """From 1, blank lines counted."""
    end_offset: int
    """Bytes of the file read when this line is done."""
    value: Any
    """The parsed JSON value; None where there is a problem."""
    problem: Problem | None
    raw: bytes
    """The line's bytes; empty where it was too long to hold."""


def find_sources(inputs: Mapping[str, Path]) -> list[Source]:
    """Return the files of all inputs (name → a file, or a folder with files), in order of input and file name.

    Raises:
        InvalidData: an input does not exist, or holds no file, or holds a folder.
    """
    found = [(name, path) for name in sorted(inputs) for path in _files(name, inputs[name])]
    names = [path.name for _, path in found]
    return [
        Source(path.name if names.count(path.name) == 1 else f"{name}/{path.name}", path, path.stat().st_size)
        for name, path in found
    ]


def read_lines(source: Source) -> Iterator[Line]:
    """Yield the lines of a file that are not blank, parsed.

    Raises:
        InvalidData: the file is empty, a binary file, or not UTF-8 (with the byte's offset).
    """
    with source.path.open("rb") as file:
        offset = _after_head(source, file)
        for number in itertools.count(1):
            raw, size = _next_line(file)
            if not size:
                return
            start, offset = offset, offset + size
            if raw is None:
                text = f"the line has {size:,} bytes; at most {MAX_LINE_BYTES:,} are read"
                yield Line(number, offset, None, Problem("line_too_long", "", text), b"")
            elif stripped := raw.strip():
                yield _parse(source, number, start + raw.index(stripped[:1]), offset, stripped)


def _parse(source: Source, number: int, start: int, end: int, raw: bytes) -> Line:
    try:
        return Line(number, end, orjson.loads(raw), None, raw)
    except orjson.JSONDecodeError as error:
        refuse_encoding(source.name, number, start, raw)
        text = f"invalid JSON at column {error.colno:,}: {error.msg}"
        return Line(number, end, None, Problem("invalid_json", "", text), raw)


def _next_line(file: BinaryIO) -> tuple[bytes | None, int]:
    """Return the next line (None if it is too long to hold) and its size in bytes, 0 at the end of the file."""
    raw = file.readline(MAX_LINE_BYTES + 1)
    if len(raw) <= MAX_LINE_BYTES:
        return raw, len(raw)
    size = len(raw)
    while not raw.endswith(b"\n") and (raw := file.readline(_READ_BYTES)):
        size += len(raw)
    return None, size


def _after_head(source: Source, file: BinaryIO) -> int:
    """Check the file's first bytes and leave it behind a byte order mark; return the offset."""
    head = file.read(_HEAD_BYTES)
    if not head:
        raise InvalidData(f"{source.name} is empty (0 bytes)", remedy="Upload the file again, with its rows.")
    if kind := file_kind(head):
        raise InvalidData(
            f"{source.name} is {kind}, not JSON Lines", remedy="Unpack or convert it to JSON Lines: one object a line."
        )
    refuse_wide_encoding(source.name, head)
    offset = len(UTF8_BOM) if head.startswith(UTF8_BOM) else 0
    file.seek(offset)
    return offset


def _files(name: str, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidData(f"input {name}: {path} does not exist", remedy="Check the path.")
    entries = sorted(path.iterdir())
    if not entries:
        raise InvalidData(f"input {name}: {path.name} is a folder without files", remedy="Name the file itself.")
    for entry in entries:
        if not entry.is_file():
            raise InvalidData(
                f"input {name}: {entry.name} is a folder, not a file", remedy="Name each file of the folder."
            )
    return entries


def as_violation(source: Source, line: int, problem: Problem) -> Violation:
    """Return the problem with its place, `file.jsonl:17:field`."""
    place = f"{source.name}:{line}"
    return Violation(f"{place}:{problem.field}" if problem.field else place, problem.description)
