"""CSV and TSV with quoted line breaks. Cut between records by Python's own parser, which also reads the blocks.

A header comes first. Records with more or fewer columns than it are problems, never shifted.
"""

import csv
from collections.abc import Iterator
from typing import Never

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep.readers.block import Block, is_direct, open_layout
from tunewright.dataprep.readers.layout import Layout
from tunewright.dataprep.readers.sources import MAX_LINE_BYTES, Line, Problem, Source
from tunewright.dataprep.readers.streams import Stream

_READ_BYTES = 1 << 20
_NEVER_CLOSED = "unexpected end of data"
csv.field_size_limit(MAX_LINE_BYTES)


class _Lines:
    """Lines of a stream as Latin-1 text, one character a byte, counting what was handed out."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.bytes = 0
        self.lines = 0
        self.held: list[bytes] | None = None

    def __iter__(self) -> Iterator[str]:
        rest = b""
        while piece := self._stream.read(_READ_BYTES):
            *whole, rest = (rest + piece).split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                yield "x" * (MAX_LINE_BYTES + 1)
            for line in whole:
                yield self._hand_out(line + b"\n")
        if rest:
            yield self._hand_out(rest)

    def _hand_out(self, line: bytes) -> str:
        self.bytes += len(line)
        self.lines += 1
        if self.held is not None:
            self.held.append(line)
        return line.decode("latin-1")

    def taken(self) -> bytes | None:
        """Return the bytes handed out since the last call, if they are held."""
        if self.held is None:
            return None
        data = b"".join(self.held)
        self.held.clear()
        return data


def cut(source: Source, layout: Layout, block_bytes: int) -> Iterator[Block]:
    """Yield blocks of whole records, without the header.

    Raises:
        InvalidData: a quote is opened and never closed.
    """
    direct = is_direct(layout)
    with open_layout(source, layout) as stream:
        lines = _Lines(stream)
        lines.held = None if direct else []
        number, start, first = 0, 0, 1
        header = True
        for _ in _records(source, iter(lines), lines, layout.delimiter):
            if header:
                lines.taken()
                start, first, header = lines.bytes, lines.lines + 1, False
            elif lines.bytes - start >= block_bytes:
                yield _block(source, layout, number, first, start, lines, None if direct else stream.file_offset)
                number, start, first = number + 1, lines.bytes, lines.lines + 1
        if lines.bytes > start and not header:
            yield _block(source, layout, number, first, start, lines, None if direct else stream.file_offset)


def _block(
    source: Source, layout: Layout, number: int, first: int, start: int, lines: _Lines, file_offset: int | None
) -> Block:
    return Block(
        source=source,
        layout=layout,
        number=number,
        first=first,
        start=layout.bom_bytes + start,
        end=layout.bom_bytes + lines.bytes if file_offset is None else file_offset,
        data=lines.taken(),
    )


def _records(source: Source, text: Iterator[str], lines: _Lines, delimiter: str) -> Iterator[None]:
    """Yield once after each record that is not blank or is broken."""
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    begins = 1
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if _NEVER_CLOSED in str(error) or "field larger" in str(error):
                _refuse(source, begins)
            record = ["broken"]
        begins = lines.lines + 1
        if record:
            yield


def _refuse(source: Source, line: int) -> Never:
    raise InvalidData(
        f"{source.name}: a quote opened in the row of line {line:,} is never closed, so no row after it can be told",
        remedy='Close it, or double the quotes inside of texts ("").',
        violations=[Violation(f"{source.name}:{line}", "a quote is opened and never closed")],
    )


def read(block: Block) -> Iterator[Line]:
    """Yield the records of a block as objects, column → text."""
    columns = block.layout.columns
    width = len(columns)
    data = block.bytes()
    text = data.decode("utf-8", "surrogateescape")
    damaged = not text.isascii() and _is_damaged(data)
    reader = csv.reader((line + "\n" for line in text.split("\n")), delimiter=block.layout.delimiter, strict=True)
    while True:
        number = block.first + reader.line_num
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Line(number, None, Problem("invalid_csv", "", f"broken quotes: {error}"), b"")
            continue
        if not record:
            continue
        if len(record) != width:
            yield _wrong_columns(number, record, width, block.layout.delimiter)
        elif damaged and (name := _undecoded(columns, record)):
            text = "its bytes are no UTF-8"
            yield Line(number, None, Problem("invalid_encoding", name, text), _raw(record))
        else:
            yield Line(number, dict(zip(columns, record, strict=True)), None, b"")


def _is_damaged(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


def _undecoded(columns: tuple[str, ...], record: list[str]) -> str:
    pairs = zip(columns, record, strict=True)
    return next((name for name, value in pairs if any("\ud800" <= c <= "\udfff" for c in value)), "")


def _wrong_columns(number: int, record: list[str], width: int, delimiter: str) -> Line:
    sign = "tab" if delimiter == "\t" else delimiter
    text = (
        f"the header has {width:,} columns, this row {len(record):,}; a text with {sign} in it needs quotes around it"
    )
    return Line(number, None, Problem("wrong_columns", "", text), _raw(record))


def _raw(record: list[str]) -> bytes:
    return " | ".join(record).encode("utf-8", "replace")
