"""Writes the two sides of the dataset from the scratch files, block by block. Knows no rule.

A row with n copies stands in n passes over the rows, not n times in a row: repeats lie far apart.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.pool import Check
from tunewright.dataprep.rows import Rows


def write(rows: Rows, copies: NDArray[np.int64], path: Path, check: Check) -> None:
    """Write each row as often as `copies` says, in the order of the input."""
    with path.open("wb") as file:
        for turn in range(int(copies.max(initial=0))):
            _write_pass(rows, copies > turn, file, check)


def write_sides(
    rows: Rows, train: NDArray[np.bool_], validation: NDArray[np.bool_], paths: tuple[Path, Path], check: Check
) -> None:
    """Write both sides in one pass: each scratch file is read once."""
    with paths[0].open("wb") as one, paths[1].open("wb") as other:
        for block, ends, start, stop in _blocks(rows):
            check()
            lines = memoryview(rows.block(block))
            for file, chosen in ((one, train), (other, validation)):
                _copy(lines, ends, chosen[start:stop], file)


def _write_pass(rows: Rows, chosen: NDArray[np.bool_], file: BinaryIO, check: Check) -> None:
    for block, ends, start, stop in _blocks(rows):
        check()
        if chosen[start:stop].any():
            _copy(memoryview(rows.block(block)), ends, chosen[start:stop], file)


def _blocks(rows: Rows) -> Iterator[tuple[int, NDArray[np.int64], int, int]]:
    for block, count in enumerate(rows.counts):
        if count:
            start = int(rows.firsts[block])
            yield block, rows.ends(block), start, start + count


def _copy(lines: memoryview, ends: NDArray[np.int64], chosen: NDArray[np.bool_], file: BinaryIO) -> None:
    """Copy runs of chosen lines."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    starts = np.concatenate([[0], ends])
    runs = zip(starts[edges[::2]].tolist(), starts[edges[1::2]].tolist(), strict=True)
    file.writelines(lines[first:last] for first, last in runs)
