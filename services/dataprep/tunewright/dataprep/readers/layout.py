"""Looks at a file's head and at samples of it: what it is packed in, its encoding, and how its rows are laid out.

Knows nothing of what the rows mean. Content decides; the ending of the name decides only where content leaves it open.
"""

import csv
import io
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Never

import orjson

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep.encodings import MIN_CONFIDENCE, Detection, by_mark, codec_of, detect, file_kind
from tunewright.dataprep.readers.sources import Source, endings
from tunewright.dataprep.readers.streams import open_stream

_HEAD_BYTES = 256 << 10
_WINDOW_BYTES = 256 << 10
_WINDOWS = 256
_SUSPECT_BYTES = 32 << 10
_COMPRESSION = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\x00": "xz", b"BZh": "bz2"}
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_CUT_OFF = "unexpected end of data"
_DELIMITERS = ",\t;|"
_MAX_SHARE_OF_CONTROLS = 0.1
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


class Container(StrEnum):
    """How the rows of a file are laid out."""

    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    TEXT = "text"
    HTML = "html"


DOCUMENTS = frozenset({Container.TEXT, Container.HTML})
"""Files that are one document each."""
_WORDS = {
    Container.JSONL: "JSON Lines",
    Container.JSON: "JSON",
    Container.CSV: "CSV",
    Container.PARQUET: "Parquet",
    Container.TEXT: "plain text",
    Container.HTML: "HTML",
}
_BY_ENDING = {
    ".csv": Container.CSV,
    ".tsv": Container.CSV,
    ".tab": Container.CSV,
    ".txt": Container.TEXT,
    ".text": Container.TEXT,
    ".md": Container.TEXT,
    ".html": Container.HTML,
    ".htm": Container.HTML,
    ".json": Container.JSONL,
    ".jsonl": Container.JSONL,
    ".ndjson": Container.JSONL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What was seen of a file; enough to read it."""

    container: Container
    compression: str = ""
    """Empty, gzip, zstd, bz2 or xz."""
    encoding: str = "UTF-8"
    confidence: float = 1.0
    """0 to 1: how sure the encoding is; 1 where it is a fact or was named."""
    language: str = ""
    """What the text was taken for, where that told the encoding."""
    bom_bytes: int = 0
    carriage_returns: bool = False
    """Lines end with a carriage return alone."""
    columns: tuple[str, ...] = ()
    """Names in a CSV file's header."""
    delimiter: str = ","

    @property
    def unit(self) -> str:
        """What rows are counted in: `line`, or `row` where lines say nothing."""
        return "line" if self.container in {Container.JSONL, Container.CSV, Container.TEXT} else "row"

    @property
    def codec(self) -> str:
        """Python's name of the encoding; empty for UTF-8, which needs no conversion."""
        codec = codec_of(self.encoding)
        return "" if codec == "utf-8" else codec

    def words(self) -> str:
        """Return it for people, such as `JSON Lines, gzip, GB18030 (confidence 0.98, Chinese)`."""
        parts = [_WORDS[self.container]]
        if self.container is Container.CSV and self.delimiter != ",":
            parts.append("tabs between columns" if self.delimiter == "\t" else f"{self.delimiter!r} between columns")
        if self.compression:
            parts.append(self.compression)
        if self.codec:
            why = f"confidence {self.confidence:.2f}" if self.confidence < 1 else "as named or marked"
            parts.append(f"{self.encoding} ({why}{f', {self.language}' if self.language else ''})")
        return ", ".join(parts)


def examine(source: Source) -> Layout:
    """Look at a file's head and samples.

    Raises:
        InvalidData: it is empty, no data file, or in an encoding that is not sure (with the byte's offset).
    """
    with source.path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise InvalidData(f"{source.name} is empty (0 bytes)", remedy="Upload the file again, with its rows.")
    if head.startswith(b"PAR1"):
        return Layout(container=Container.PARQUET)
    compression = next((kind for magic, kind in _COMPRESSION.items() if head.startswith(magic)), "")
    if compression:
        with open_stream(source.name, source.path, compression) as stream:
            head = b"".join(_pieces(stream.read, _HEAD_BYTES))
        if not head:
            raise InvalidData(f"{source.name} holds nothing once unpacked", remedy="Upload it again, with its rows.")
        if head.startswith(b"PAR1"):
            _refuse_kind(
                source, "a Parquet file in an archive", "Upload the Parquet file as it is; it is packed inside."
            )
    if kind := file_kind(head):
        _refuse_kind(source, kind, "Unpack or convert it.")
    encoding = _encoding(source, head, compression)
    text = _text(head, encoding)
    returns = b"\n" not in text and b"\r" in text
    text = text.replace(b"\r", b"\n") if returns else text
    container = _container(source, text)
    columns, delimiter = _header(source, text) if container is Container.CSV else ((), ",")
    return Layout(
        container=container,
        compression=compression,
        encoding=encoding.encoding,
        confidence=encoding.confidence,
        language=encoding.language,
        bom_bytes=encoding.bom_bytes,
        carriage_returns=returns,
        columns=columns,
        delimiter=delimiter,
    )


def _pieces(read: object, size: int) -> Iterator[bytes]:
    while size > 0 and (piece := read(size)):  # type: ignore[operator]  # a bound Stream.read
        yield piece
        size -= len(piece)


def _text(head: bytes, encoding: Detection) -> bytes:
    text = head[encoding.bom_bytes :].decode(codec_of(encoding.encoding), "ignore")
    return text.encode("utf-8", "ignore")


def _encoding(source: Source, head: bytes, compression: str) -> Detection:
    mark = by_mark(head)
    if source.reading.encoding != "auto":
        named = source.reading.encoding
        try:
            codec_of(named)
        except LookupError as error:
            raise InvalidData(
                f"{source.name}: reading.encoding {named!r} is no encoding",
                remedy="Name one such as UTF-8, GB18030, Big5, Shift-JIS or CP1252, or leave it out.",
            ) from error
        return Detection(named, 1.0, bom_bytes=mark.bom_bytes if mark and mark.encoding == named.upper() else 0)
    if mark is not None:
        return mark
    controls = len(_CONTROLS.findall(head)) / len(head)
    if controls > _MAX_SHARE_OF_CONTROLS:
        _refuse_kind(source, "a binary file", "Upload the data as JSON Lines, JSON, CSV, Parquet, text or HTML.")
    return _weigh(source, compression)


def _weigh(source: Source, compression: str) -> Detection:
    """Return UTF-8 if most lines beyond ASCII are, else what the others seem to be."""
    valid = 0
    suspect: list[bytes] = []
    first = -1
    size = 0
    for offset, sample in _samples(source, compression):
        good, bad, place = _sort(sample)
        valid += good
        if bad and first < 0:
            first = offset + place
        for line in bad:
            if size < _SUSPECT_BYTES:
                suspect.append(line[: _SUSPECT_BYTES - size])
            size += len(line)
    if not suspect or valid >= size:
        return Detection("UTF-8", 1.0)
    found = detect(b"\n".join(suspect))
    if found.confidence < MIN_CONFIDENCE or valid:
        _refuse_encoding(source, first, found, valid=valid)
    return found


def _samples(source: Source, compression: str) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, whole lines): all of a small file, windows all over a large one, the beginning of an archive."""
    windows = source.size_bytes // _WINDOW_BYTES + 1
    if compression:
        with open_stream(source.name, source.path, compression) as stream:
            offset, held = 0, b""
            for piece in _pieces(stream.read, _WINDOWS * _WINDOW_BYTES):
                whole, _, rest = (held + piece).rpartition(b"\n")
                yield offset, whole
                offset, held = offset + len(whole) + bool(whole), rest
            yield offset, held
        return
    with source.path.open("rb") as file:
        for number in range(min(windows, _WINDOWS)):
            offset = number * _WINDOW_BYTES if windows <= _WINDOWS else number * source.size_bytes // _WINDOWS
            file.seek(offset)
            sample = file.read(_WINDOW_BYTES)
            if offset:
                sample = sample[_characters_begin(sample) :]
            yield offset, sample


def _characters_begin(sample: bytes) -> int:
    """Return where the first whole line begins, or the first character if there is no line end."""
    return sample.find(b"\n") + 1 or next((n for n in range(min(4, len(sample))) if sample[n] & 0xC0 != 0x80), 0)  # noqa: PLR2004 - UTF-8's bytes


def _sort(sample: bytes) -> tuple[int, list[bytes], int]:
    """Return the bytes in valid UTF-8 lines beyond ASCII, the other lines, and the first wrong byte's place."""
    if sample.isascii():
        return (0, [], 0) if b"\x1b$" not in sample else (0, [sample], sample.find(b"\x1b$"))
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        if error.reason != _CUT_OFF:
            return _sort_lines(sample, error.start)
    return sum(len(line) for line in sample.split(b"\n") if not line.isascii()), [], 0


def _sort_lines(sample: bytes, first: int) -> tuple[int, list[bytes], int]:
    valid, bad = 0, []
    lines = sample.split(b"\n")
    for number, line in enumerate(lines):
        if line.isascii():
            continue
        try:
            line.decode()
            valid += len(line)
        except UnicodeDecodeError as error:
            if number == len(lines) - 1 and error.reason == _CUT_OFF:
                valid += len(line)
            else:
                bad.append(line)
    return valid, bad, first


def _container(source: Source, text: bytes) -> Container:
    stripped = text.lstrip()
    ending = endings(source.name)[0]
    by_ending = _BY_ENDING.get(ending)
    if by_ending in {Container.TEXT, Container.CSV, Container.HTML}:
        first = stripped.split(b"\n", 1)[0]
        if stripped[:1] != b"{" or not _is_object(first):
            return by_ending
        return Container.JSONL
    if stripped[:1] in {b"{", b"["}:
        return _json_container(stripped)
    if _HTML.match(text):
        return Container.HTML
    if by_ending is not None:
        return by_ending
    if stripped[:5] == b"<?xml":
        _refuse_kind(source, "an XML document", "Convert it to JSON Lines, CSV, text or HTML.")
    return _refuse_kind(
        source,
        "a file of no known kind",
        "Let its name end with what it holds: .jsonl, .json, .csv, .tsv, .parquet, .txt, .md or .html.",
    )


def _json_container(text: bytes) -> Container:
    """Tell one object a line from an array, or from objects that spread over several lines."""
    lines = [line for line in text.split(b"\n")[:40] if line.strip()]
    if len(lines) == 1:
        return Container.JSON if text[:1] == b"[" else Container.JSONL
    if text[:1] == b"[":
        return Container.JSONL if _is_json(lines[0]) and _is_json(lines[1]) else Container.JSON
    return Container.JSONL if any(map(_is_object, lines)) else Container.JSON if len(lines[0]) < 3 else _spread(lines)  # noqa: PLR2004 - "{" and a carriage return


def _spread(lines: list[bytes]) -> Container:
    """An object whose first line is no whole object is spread if its next line does not begin one."""
    return Container.JSON if not lines[1].lstrip().startswith(b"{") else Container.JSONL


def _is_object(line: bytes) -> bool:
    return line.lstrip()[:1] == b"{" and _is_json(line)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _header(source: Source, text: bytes) -> tuple[tuple[str, ...], str]:
    decoded = text.decode("utf-8", "ignore").lstrip("\n\r")
    first = decoded.split("\n", 1)[0]
    delimiter = {"tab": "\t"}.get(source.reading.delimiter, source.reading.delimiter)
    if delimiter == "auto":
        tabs = endings(source.name)[0] in {".tsv", ".tab"}
        delimiter = "\t" if tabs else max(_DELIMITERS, key=first.count)
    try:
        columns = tuple(
            name.strip() for name in next(csv.reader(io.StringIO(decoded, newline="\n"), delimiter=delimiter))
        )
    except (csv.Error, StopIteration, TypeError) as error:
        raise InvalidData(
            f"{source.name}: its header cannot be read: {error}", remedy="Write the columns' names first."
        ) from error
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise InvalidData(
            f"{source.name}: its header names {twice[0]!r} twice",
            remedy="Give each column a name of its own.",
            violations=[Violation(f"{source.name}:1", f"{twice[0]!r} stands there twice")],
        )
    return columns, delimiter


def _refuse_kind(source: Source, kind: str, remedy: str) -> Never:
    raise InvalidData(f"{source.name} is {kind}", remedy=remedy, violations=[Violation(source.name, f"is {kind}")])


def _refuse_encoding(source: Source, offset: int, found: Detection, *, valid: int) -> Never:
    if valid:
        why = "parts of it are UTF-8, parts are not"
        remedy = "Convert all of it to UTF-8."
    else:
        other = f" or {found.runner_up}" if found.runner_up else ""
        why = f"it may be {found.encoding}{other} (confidence {found.confidence:.2f}; {MIN_CONFIDENCE} is needed)"
        remedy = f"Convert it: iconv -f {found.encoding} -t UTF-8 {shlex.quote(source.name)} > utf8.jsonl"
    raise InvalidData(
        f"{source.name} is not UTF-8 from the byte at offset {offset:,} on, and {why}",
        remedy=remedy,
        violations=[Violation(source.name, f"the byte at offset {offset} is not UTF-8")],
    )
