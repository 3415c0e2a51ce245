"""Cuts files into blocks that can be read anywhere, and reads blocks. The rows are the same wherever the cuts lie.

Knows how each container is cut, by its module: `json_lines`, `json_values`, `tables`, `parquet`, `documents`.
"""

from collections.abc import Iterator
from dataclasses import replace

from tunewright.dataprep.readers import documents, json_lines, json_values, parquet, tables
from tunewright.dataprep.readers.block import BLOCK_BYTES, Block
from tunewright.dataprep.readers.layout import Container, Layout
from tunewright.dataprep.readers.sources import Line, Source

_MODULES = {
    Container.JSONL: json_lines,
    Container.JSON: json_values,
    Container.CSV: tables,
    Container.PARQUET: parquet,
    Container.TEXT: documents,
    Container.HTML: documents,
}


def blocks(source: Source, layout: Layout, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the blocks of a file, each about `block_bytes` of unpacked text; lazily, so that a stop costs nothing.

    Raises:
        InvalidData: the file is broken in a way that leaves no rows behind that place.
    """
    yield from _MODULES[layout.container].cut(source, layout, block_bytes)


def carrying(block: Block) -> Block:
    """Return the block with its bytes, to be read where its file is not.

    Raises:
        InvalidData: the file is broken there.
    """
    if block.data is not None or block.too_long:
        return block
    if block.layout.container is Container.PARQUET:
        return parquet.carrying(block)
    return replace(block, data=block.bytes())


def read_block(block: Block) -> Iterator[Line]:
    """Yield the rows of a block that are not blank."""
    yield from _MODULES[block.layout.container].read(block)


def read_lines(source: Source, layout: Layout, block_bytes: int = BLOCK_BYTES) -> Iterator[Line]:
    """Yield all rows of a file, in this process."""
    for block in blocks(source, layout, block_bytes):
        yield from read_block(block)
