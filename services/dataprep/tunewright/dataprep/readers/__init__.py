"""Readers: files of every usual kind, cut into blocks, and the rows in them with their numbers. Knows no shapes."""

from tunewright.dataprep.readers.block import BLOCK_BYTES, Block
from tunewright.dataprep.readers.blocks import blocks, carrying, read_block, read_lines
from tunewright.dataprep.readers.documents import pieces
from tunewright.dataprep.readers.layout import DOCUMENTS, Container, Layout, examine
from tunewright.dataprep.readers.sources import (
    Found,
    Line,
    Problem,
    Reading,
    Source,
    as_violation,
    excerpt_of,
    find_sources,
)

__all__ = [
    "BLOCK_BYTES",
    "DOCUMENTS",
    "Block",
    "Container",
    "Found",
    "Layout",
    "Line",
    "Problem",
    "Reading",
    "Source",
    "as_violation",
    "blocks",
    "carrying",
    "examine",
    "excerpt_of",
    "find_sources",
    "pieces",
    "read_block",
    "read_lines",
]
