"""Plain text and HTML as documents: rows with one field, `text`. Long documents become pieces at blank lines.

Text is first divided into segments of about 256 KiB at fixed places of the file, so that the pieces do not depend on
how blocks are cut. HTML is parsed whole.
"""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser

from tunewright.chassis.errors import InvalidData
from tunewright.dataprep.html_text import html_to_text
from tunewright.dataprep.readers.block import Block, is_direct, open_layout
from tunewright.dataprep.readers.layout import Container, Layout
from tunewright.dataprep.readers.link_lists import remove_link_lists
from tunewright.dataprep.readers.sources import Line, Problem, Source

_SEGMENT_BYTES = 256 << 10
_MAX_HTML_BYTES = 64 << 20
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_FURNITURE = "nav, aside, footer, form, button, script, style, noscript, template, iframe, svg"
_PLACES = (("\n\n",), ("\n",), ("。", "！", "？", ". ", "! ", "? "), (" ", "\u3000"))
"""Where text may be cut, the best kind of place first."""


def cut(source: Source, layout: Layout, block_bytes: int) -> Iterator[Block]:
    """Yield blocks of whole segments, or an HTML file as one block.

    Raises:
        InvalidData: an HTML file is too large to be parsed.
    """
    if layout.container is Container.HTML:
        yield _whole(source, layout)
        return
    direct = is_direct(layout)
    number, first, start = 0, 1, layout.bom_bytes
    with open_layout(source, layout) as stream:
        held: list[bytes] = []
        size = 0
        for segment in _segments(iter(lambda: stream.read(_SEGMENT_BYTES), b"")):
            held.append(segment)
            size += len(segment)
            if size >= block_bytes:
                yield _block(source, layout, number, first, start, held, None if direct else stream.file_offset)
                number, start, first = number + 1, start + size, first + sum(part.count(b"\n") for part in held)
                held, size = [], 0
        if held:
            yield _block(source, layout, number, first, start, held, None if direct else stream.file_offset)


def _block(
    source: Source, layout: Layout, number: int, first: int, start: int, held: list[bytes], file_offset: int | None
) -> Block:
    ends: list[int] = []
    for part in held:
        ends.append(len(part) + (ends[-1] if ends else 0))
    return Block(
        source=source,
        layout=layout,
        number=number,
        first=first,
        start=start,
        end=start + ends[-1] if file_offset is None else file_offset,
        data=None if file_offset is None else b"".join(held),
        spans=tuple(ends),
    )


def _segments(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the text in parts that end at the first blank line after 256 KiB, else at a line, else at a character."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= 2 * _SEGMENT_BYTES:
            end = _segment_end(held)
            yield bytes(held[:end])
            del held[:end]
    while len(held) >= 2 * _SEGMENT_BYTES:
        end = _segment_end(held)
        yield bytes(held[:end])
        del held[:end]
    if held:
        yield bytes(held)


def _segment_end(held: bytearray) -> int:
    if match := _BLANK_LINE.search(held, _SEGMENT_BYTES, 2 * _SEGMENT_BYTES):
        return match.end()
    if place := held.find(b"\n", _SEGMENT_BYTES, 2 * _SEGMENT_BYTES) + 1:
        return place
    end = _SEGMENT_BYTES
    while end > _SEGMENT_BYTES - 4 and held[end] & 0xC0 == 0x80:  # noqa: PLR2004 - UTF-8's bytes
        end -= 1
    return end


def _whole(source: Source, layout: Layout) -> Block:
    parts: list[bytes] = []
    with open_layout(source, layout) as stream:
        while piece := stream.read(1 << 20):
            parts.append(piece)
            if sum(map(len, parts)) > _MAX_HTML_BYTES:
                raise InvalidData(
                    f"{source.name} is an HTML page of more than {_MAX_HTML_BYTES >> 20} MiB",
                    remedy="Divide it into pages, or convert it to text.",
                )
    return Block(source=source, layout=layout, number=0, first=1, start=0, end=source.size_bytes, data=b"".join(parts))


def read(block: Block) -> Iterator[Line]:
    """Yield the documents of a block; text that is not UTF-8 is a problem, with its offset."""
    if block.layout.container is Container.HTML:
        yield from _read_page(block)
        return
    data = block.bytes()
    number, begin = block.first, 0
    for end in block.spans:
        segment = data[begin:end]
        try:
            text = segment.decode()
        except UnicodeDecodeError as error:
            offset = block.start + begin + error.start
            problem = Problem("invalid_encoding", "", f"byte at offset {offset:,} is no UTF-8: {error.reason}")
            yield Line(number, None, problem, segment[error.start : error.start + 80])
        else:
            yield from _rows(text, number, block.source.reading.piece_chars)
        number += segment.count(b"\n")
        begin = end


def _rows(text: str, number: int, limit: int) -> Iterator[Line]:
    for piece in pieces(text.replace("\r\n", "\n"), limit):
        if piece.strip():
            lead = len(piece) - len(piece.lstrip())
            yield Line(number + piece.count("\n", 0, lead), {"text": piece.strip("\n")}, None, b"")
        number += piece.count("\n")


def pieces(text: str, limit: int) -> Iterator[str]:
    """Yield the text in pieces of at most `limit` characters, cut at blank lines, else lines, sentences, or words."""
    begin = 0
    while len(text) - begin > limit:
        end = begin + limit
        for signs in _PLACES:
            found = [(text.rfind(sign, begin + limit // 2, end), len(sign)) for sign in signs]
            place, size = max(found)
            if place >= 0:
                end = place + size
                break
        yield text[begin:end]
        begin = end
    yield text[begin:]


def page_text(page: LexborHTMLParser, *, link_lists: bool = False) -> str:
    """Return the text of a page without its furniture; the page is changed.

    What is in `main`, else in the first `article`, is the text, whatever it holds; of a page that marks neither, lists
    of links go too, unless `link_lists`.
    """
    for node in page.css(_FURNITURE):
        node.decompose()
    marked = page.css_first("main") or page.css_first("article")
    body = marked or page.body
    if body is None:
        return ""
    if marked is None and not link_lists:
        remove_link_lists(body)
    return html_to_text(body.inner_html or "")


def _read_page(block: Block) -> Iterator[Line]:
    data = block.bytes()
    try:
        page = LexborHTMLParser(data.decode("utf-8", "replace").replace("\x00", ""))
    except ValueError as error:
        yield Line(1, None, Problem("invalid_html", "", str(error)), data[:200])
        return
    for number, piece in enumerate(pieces(page_text(page), block.source.reading.piece_chars), 1):
        if piece.strip():
            yield Line(number, {"text": piece.strip("\n")}, None, b"")
