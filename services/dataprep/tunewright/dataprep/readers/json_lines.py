"""JSON Lines: one value a line. Cut at line ends by counting; parsed where the block is read."""

import re
from collections.abc import Iterator

import orjson

from tunewright.dataprep.encodings import UTF8_BOM
from tunewright.dataprep.readers.block import Block, is_direct, newline_safe, open_layout
from tunewright.dataprep.readers.layout import Layout
from tunewright.dataprep.readers.repeated_keys import checked, key_colons, keys_of
from tunewright.dataprep.readers.sources import MAX_LINE_BYTES, Line, Problem, Source

_READ_BYTES = 1 << 20
_SPACE_ONLY = re.compile(rb"\s*\Z")


def cut(source: Source, layout: Layout, block_bytes: int) -> Iterator[Block]:
    """Yield blocks of whole lines; a line too long to hold is a block of its own, without its bytes."""
    direct = is_direct(layout, decoded_later=True)
    number, first, start = 0, 1, layout.bom_bytes
    with open_layout(source, layout, decoded_later=True) as stream:
        for data, size in _line_groups(iter(lambda: stream.read(block_bytes), b"")):
            end = start + size
            yield Block(
                source=source,
                layout=layout,
                number=number,
                first=first,
                start=start,
                end=end if direct else stream.file_offset,
                data=None if direct else data,
                too_long=0 if data else size,
            )
            number, start = number + 1, end
            first += data.count(b"\n") if data else 1


def _line_groups(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield (bytes of whole lines, their size); empty bytes for one line that is too long."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        place = piece.rfind(b"\n") + 1
        if not place:
            size += len(piece)
            if size <= MAX_LINE_BYTES:
                held.append(piece)
            else:
                held.clear()
            continue
        if size > MAX_LINE_BYTES:
            ends = piece.find(b"\n") + 1
            yield b"", size + ends
            size, piece, place = 0, piece[ends:], place - ends  # noqa: PLW2901 - the rest of it
            if not place:
                held, size = [piece] if piece else [], len(piece)
                continue
        data = b"".join([*held, piece[:place]])
        yield data, len(data)
        held = [piece[place:]] if place < len(piece) else []
        size = len(piece) - place
    if size:
        data = b"".join(held) if size <= MAX_LINE_BYTES else b""
        yield data, size


def read(block: Block) -> Iterator[Line]:
    """Yield the lines of a block, parsed."""
    if block.too_long:
        yield too_long(block.first, block.too_long)
        return
    data = block.bytes()
    if block.layout.codec and newline_safe(block.layout):
        yield from _read_encoded(block, data)
        return
    number = block.first
    start = block.start
    lines = data.split(b"\n")
    for raw, colons in zip(lines, key_colons(lines), strict=True):
        if raw:
            try:
                if len(raw) <= MAX_LINE_BYTES:
                    line = Line(number, orjson.loads(raw), None, raw)
                    yield line if keys_of(line.value) == colons else checked(line)
                else:
                    yield too_long(number, len(raw))
            except orjson.JSONDecodeError as error:
                if not _SPACE_ONLY.match(raw):
                    yield broken(number, raw, error, start)
        number += 1
        start += len(raw) + 1


def _read_encoded(block: Block, data: bytes) -> Iterator[Line]:
    """Yield the lines of a block in another encoding; lines that are not in it are problems."""
    codec = block.layout.codec
    start = block.start
    for number, encoded in enumerate(data.split(b"\n"), block.first):
        try:
            raw = encoded.decode(codec).encode("utf-8", "surrogatepass")
            if raw and not raw.isspace():
                yield checked(Line(number, orjson.loads(raw), None, raw))
        except UnicodeDecodeError as error:
            yield _not_encoded(number, encoded, block.layout.encoding, start + error.start, error)
        except orjson.JSONDecodeError as error:
            yield broken(number, raw, error, start)
        start += len(encoded) + 1


def _not_encoded(number: int, raw: bytes, encoding: str, offset: int, error: UnicodeDecodeError) -> Line:
    text = f"byte 0x{raw[error.start]:02x} at offset {offset:,} is no {encoding}: {error.reason}"
    return Line(number, None, Problem("invalid_encoding", "", text), raw)


def broken(number: int, raw: bytes, error: orjson.JSONDecodeError, start: int) -> Line:
    """Return the line for bytes that are no JSON, saying whether they are text at all.

    Args:
        number: of the line or row.
        raw: its bytes, meant to be UTF-8.
        error: what the parser said.
        start: offset of its first byte in the file.
    """
    stripped = raw.strip()
    if stripped.startswith(UTF8_BOM):
        try:
            return checked(Line(number, orjson.loads(stripped[len(UTF8_BOM) :]), None, stripped))
        except orjson.JSONDecodeError:
            pass
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        return _not_encoded(number, raw, "UTF-8", start + wrong.start, wrong)
    return Line(number, None, Problem("invalid_json", "", f"invalid JSON at column {error.colno:,}: {error.msg}"), raw)


def too_long(number: int, size: int) -> Line:
    """Return the line that stands for one too long to hold (bytes)."""
    text = f"the line has {size:,} bytes; at most {MAX_LINE_BYTES:,} are read"
    return Line(number, None, Problem("line_too_long", "", text), b"")
