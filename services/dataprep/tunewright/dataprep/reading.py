"""The files of a run, and all rows of one in order: readers for a single process. Knows no shapes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tunewright.dataprep import readers
from tunewright.dataprep.readers import Problem, Source, as_violation, examine, read_block

__all__ = ["Line", "Problem", "Source", "as_violation", "find_sources", "read_lines"]


_BLOCK_BYTES = 4 << 10
"""Small, since progress is told by blocks."""


class Line(NamedTuple):
    """One row that is not blank, and how far reading its file is."""

    number: int
    end_offset: int
    """Bytes of the file that are done with the block of this row."""
    value: Any
    problem: Problem | None
    raw: bytes


def find_sources(inputs: Mapping[str, Path]) -> list[Source]:
    """Return the data files of all inputs (name → a file, or a folder), in order of input and path.

    Raises:
        InvalidData: an input does not exist, or holds no data file.
    """
    return readers.find_sources(inputs).sources


def read_lines(source: Source) -> Iterator[Line]:
    """Yield the rows of a file that are not blank, parsed.

    Raises:
        InvalidData: it is empty, no data file, or in an encoding that is not sure.
    """
    for block in readers.blocks(source, examine(source), _BLOCK_BYTES):
        for number, value, problem, raw in read_block(block):
            yield Line(number, block.end, value, problem, raw)
