"""A block: the part of a file that one worker reads. Knows no format."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tunewright.dataprep.readers.layout import Layout
from tunewright.dataprep.readers.sources import Source
from tunewright.dataprep.readers.streams import Stream, open_stream

BLOCK_BYTES = 8 << 20
"""Bytes of unpacked text in a block, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part of a file; small to send where it names a range, else it carries its bytes."""

    source: Source
    layout: Layout
    number: int
    """From 0 in its file."""
    first: int
    """Number of its first line or row, from 1."""
    start: int
    """Its first byte in the file; meaningless where it carries its bytes."""
    end: int
    """Bytes of the file that are done with this block: what progress is told by."""
    data: bytes | None = None
    """Its bytes, unpacked and (but for JSON Lines) in UTF-8; None if the reader finds them in the file."""
    spans: tuple[int, ...] = ()
    """Starts and ends of values, or ends of segments, counted from the block's first byte."""
    too_long: int = 0
    """Bytes of a row that is too long to be held; the block is that row alone."""
    broken: str = ""
    """Why its one row cannot be told from the bytes."""

    def bytes(self) -> bytes:
        """Return the block's bytes."""
        if self.data is not None:
            return self.data
        with self.source.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start)


def is_direct(layout: Layout, *, decoded_later: bool = False) -> bool:
    """Return True if ranges of the file can be read as they are: not packed, UTF-8, lines ending with newlines."""
    plain = not layout.codec or (decoded_later and newline_safe(layout))
    return not layout.compression and plain and not layout.carriage_returns


def newline_safe(layout: Layout) -> bool:
    """Return True if a newline's byte is never part of another character."""
    return not layout.codec.startswith(("utf-16", "utf-32", "utf_16", "utf_32", "utf_7", "hz", "iso2022"))


@contextmanager
def open_layout(source: Source, layout: Layout, *, decoded_later: bool = False) -> Iterator[Stream]:
    """Open a file as its layout says: in UTF-8, or in its own encoding if rows are decoded later."""
    keep = decoded_later and newline_safe(layout)
    with open_stream(
        source.name,
        source.path,
        layout.compression,
        "" if keep else layout.codec,
        skip=layout.bom_bytes,
        carriage_returns=layout.carriage_returns,
    ) as stream:
        yield stream
