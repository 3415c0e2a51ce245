"""JSON arrays, and JSON objects one after another, of any size. Cut between values by a parser, parsed again in blocks.

Positions are found in the bytes read as Latin-1, which keeps one character a byte and all of JSON's own signs.
"""

import json
import re
from collections.abc import Iterator
from typing import Never

import orjson

from tunewright.chassis.errors import InvalidData, Violation
from tunewright.dataprep.readers import sources
from tunewright.dataprep.readers.block import Block, is_direct, open_layout
from tunewright.dataprep.readers.json_lines import broken, too_long
from tunewright.dataprep.readers.layout import Layout
from tunewright.dataprep.readers.repeated_keys import checked
from tunewright.dataprep.readers.sources import Line, Source
from tunewright.dataprep.readers.streams import Stream

_DECODER = json.JSONDecoder(strict=False)
_BETWEEN = re.compile(r"[\s,\x00\ufeff]*")
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)
_SCALAR_END = re.compile(r"[,\]\s]")


class _Window:
    """The part of the text that is looked at, and where it lies."""

    def __init__(self, stream: Stream, start: int, block_bytes: int) -> None:
        self._stream = stream
        self._block_bytes = block_bytes
        self.start = start
        self.text = ""
        self.ended = False

    def grow(self) -> None:
        piece = self._stream.read(max(self._block_bytes, len(self.text)))
        self.ended = not piece
        self.text += piece.decode("latin-1")

    def drop(self, place: int) -> None:
        self.start += place
        self.text = self.text[place:]


def cut(source: Source, layout: Layout, block_bytes: int) -> Iterator[Block]:
    """Yield blocks of whole values.

    Raises:
        InvalidData: brackets or quotes do not match, so that nothing after that place can be told apart.
    """
    direct = is_direct(layout)
    number, row, spans = 0, 1, list[int]()
    with open_layout(source, layout) as stream:
        window = _Window(stream, layout.bom_bytes, block_bytes)
        for begin, end in _values(source, window):
            spans += (begin, end)
            if end >= block_bytes:
                yield _block(source, layout, number, row, spans, window, None if direct else stream.file_offset)
                number, row = number + 1, row + len(spans) // 2
                spans = []
                window.drop(end)
        if spans:
            yield _block(source, layout, number, row, spans, window, None if direct else stream.file_offset)


def _block(
    source: Source, layout: Layout, number: int, row: int, spans: list[int], window: _Window, file_offset: int | None
) -> Block:
    start, end = spans[0], spans[-1]
    return Block(
        source=source,
        layout=layout,
        number=number,
        first=row,
        start=window.start + start,
        end=window.start + end if file_offset is None else file_offset,
        data=None if file_offset is None else window.text[start:end].encode("latin-1"),
        spans=tuple(place - start for place in spans),
    )


def _values(source: Source, window: _Window) -> Iterator[tuple[int, int]]:
    """Yield where each value begins and ends in the window's text, which the caller may shorten up to its end."""
    window.grow()
    place, row = _open(window)
    in_array = window.text[place - 1 : place] == "["
    while True:
        place = _skip(window, place)
        if place == len(window.text):
            if in_array:
                _refuse(source, row, window.start + place, "the file ends before its array does")
            return
        if in_array and window.text[place] == "]":
            _refuse_rest(source, window, place + 1)
            return
        end = _end(source, window, place, row, in_array=in_array)
        before = window.start
        yield place, end
        place = end - (window.start - before)
        row += 1


def _open(window: _Window) -> tuple[int, int]:
    place = _skip(window, 0)
    return (place + 1, 1) if window.text[place : place + 1] == "[" else (place, 1)


def _skip(window: _Window, place: int) -> int:
    while True:
        match = _BETWEEN.match(window.text, place)
        place = match.end() if match else place
        if place < len(window.text) or window.ended:
            return place
        window.grow()


def _end(source: Source, window: _Window, place: int, row: int, *, in_array: bool) -> int:
    """Return where the value ends that begins at `place`; more is read as needed."""
    while True:
        try:
            end = _DECODER.raw_decode(window.text, place)[1]
            if end < len(window.text) or window.ended:
                return int(end)
        except (ValueError, RecursionError):
            if window.ended or len(window.text) - place > sources.MAX_LINE_BYTES:
                return _scan(source, window, place, row, in_array=in_array)
            found = _closed(window.text, place, in_array=in_array)
            if found is not None:
                return found
        window.grow()


def _scan(source: Source, window: _Window, place: int, row: int, *, in_array: bool) -> int:
    end = _closed(window.text, place, in_array=in_array)
    if end is None:
        _refuse(source, row, window.start + place, "its brackets or quotes do not match, or the file ends inside it")
    return end


def _closed(text: str, place: int, *, in_array: bool) -> int | None:
    """Return where a value ends that the parser does not understand: by its brackets and quotes alone."""
    depth = 0
    for match in _TOKEN.finditer(text, place):
        sign = match[0]
        if sign == '"':
            return None
        if sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
            if depth < 0:
                return match.start() if in_array and sign == "]" else None
            if depth == 0 and not in_array:
                return match.end()
        elif sign == "," and depth == 0 and in_array:
            return match.start()
    return None


def _refuse_rest(source: Source, window: _Window, place: int) -> None:
    place = _skip(window, place)
    if place < len(window.text):
        _refuse(source, 0, window.start + place, "something follows after the end of its array")


def _refuse(source: Source, row: int, offset: int, why: str) -> Never:
    where = f"row {row:,} (byte {offset:,})" if row else f"byte {offset:,}"
    raise InvalidData(
        f"{source.name} cannot be read from {where} on: {why}",
        remedy="Correct that place, or upload the file again if it was cut off; JSON Lines survives a broken row.",
        violations=[Violation(f"{source.name}:{row}" if row else source.name, f"byte {offset}: {why}")],
    )


def read(block: Block) -> Iterator[Line]:
    """Yield the values of a block."""
    data = block.bytes()
    for number, place in enumerate(range(0, len(block.spans), 2)):
        begin, end = block.spans[place], block.spans[place + 1]
        raw, row = data[begin:end], block.first + number
        if len(raw) > sources.MAX_LINE_BYTES:
            yield too_long(row, len(raw))
            continue
        try:
            yield checked(Line(row, orjson.loads(raw), None, raw))
        except orjson.JSONDecodeError as error:
            yield broken(row, raw, error, block.start + begin)
