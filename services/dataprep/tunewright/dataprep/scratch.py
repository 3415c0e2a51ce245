"""Files between the passes, in one folder that goes when the run ends: each block's rows and its band keys.

Rows lie as the lines that they will be in the dataset. Knows nothing of what stands in them.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

FOLDER = ".scratch"


class Scratch:
    """The folder; one that a killed run left is emptied first."""

    def __init__(self, output_dir: Path) -> None:
        self.folder = output_dir / FOLDER
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_block(folder: Path, block: int, lines: Sequence[bytes], bands: NDArray[np.uint64]) -> None:
    """Write the rows of a block, and its band keys, one band after the other."""
    _rows(folder, block).write_bytes(b"".join(lines))
    if bands.size:
        np.ascontiguousarray(bands.T).tofile(_bands(folder, block))


def read_block(folder: Path, block: int) -> bytes:
    """Return all lines of a block."""
    return _rows(folder, block).read_bytes()


def read_lines(folder: Path, block: int, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield some lines of a block, given by their places in bytes."""
    with _rows(folder, block).open("rb") as file:
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            file.seek(start)
            yield file.read(end - start)


def read_band(folder: Path, rows: Sequence[int], band: int) -> NDArray[np.uint64]:
    """Return one band's keys of all rows; `rows` is the number of rows of each block."""
    keys = np.empty(sum(rows), np.uint64)
    start = 0
    for block, count in enumerate(rows):
        if count:
            part = np.fromfile(_bands(folder, block), np.uint64, count, offset=band * count * keys.itemsize)
            keys[start : start + count] = part
            start += count
    return keys


def _rows(folder: Path, block: int) -> Path:
    return folder / f"{block:08}.rows"


def _bands(folder: Path, block: int) -> Path:
    return folder / f"{block:08}.bands"
