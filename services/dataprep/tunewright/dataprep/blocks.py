"""The blocks of a whole run, numbered: the same cuts whoever works them off, and however many.

Knows nothing of what the rows hold; how each file is cut is the readers' knowledge.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tunewright.dataprep import readers
from tunewright.dataprep.readers import Layout, Line, Source, examine

BLOCK_BYTES = 4 << 20
"""Some thousand rows: enough for compiled loops, few enough to hold their parsed form several times."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file."""

    number: int
    """In the whole run, from 0."""
    file: int
    """Number of the file."""
    part: readers.Block

    @property
    def end(self) -> int:
        """Bytes of the file that are done with this block."""
        return self.part.end


def blocks(
    sources: Sequence[Source], block_bytes: int = BLOCK_BYTES, layouts: Sequence[Layout] | None = None
) -> Iterator[Block]:
    """Yield the blocks of all files, in order; a row longer than a block makes its block longer.

    Args:
        sources: the files.
        block_bytes: about the size of a block.
        layouts: of each file, where they are known; else each is looked at.
    """
    numbers = itertools.count()
    for file, source in enumerate(sources):
        layout = examine(source) if layouts is None else layouts[file]
        for part in readers.blocks(source, layout, block_bytes):
            yield Block(next(numbers), file, part)


def read_block(block: Block, source: Source) -> Iterator[Line]:
    """Yield the rows of a block that are not blank, parsed."""
    del source  # the block knows it
    return readers.read_block(block.part)
