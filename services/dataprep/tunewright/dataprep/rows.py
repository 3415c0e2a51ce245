"""The facts of all clean rows, as arrays: about 120 bytes a row. Rows are numbered in the order of the input.

A block gives its part (`Facts`); `Columns` keeps all of them on disk, and `Rows` maps them into memory as long as they
are looked at, and reads rows from the scratch files. Knows nothing of how anything is decided.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.dataprep import scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of n rows, one entry each."""

    sizes: NDArray[np.uint32]
    """Bytes of the row's line."""
    identity: NDArray[np.uint64]
    """n × 2; first 128 bits of the identity: among a billion rows two different ones meet with a chance of 1e-21."""
    digest: NDArray[np.uint8]
    """n × 32; SHA-256 of the row's content to the last character."""
    worth: NDArray[np.uint64]
    """Greater is better, among rows that say the same."""
    question: NDArray[np.uint64]
    """Place of the question on the scale of the split."""
    prompt: NDArray[np.uint64]
    """Hash of what is asked; of a pair, of what is compared; 0 where rows cannot contradict each other."""
    answer: NDArray[np.uint64]
    question_chars: NDArray[np.uint32]
    """Characters of all that is no answer, chosen or rejected."""
    answer_chars: NDArray[np.uint32]
    quality: NDArray[np.float32]
    tokens: NDArray[np.uint32]
    """Tokens of the rendered row; 0 where no tokenizer is known."""
    group: NDArray[np.uint64]
    """Place of the value of the field that the split goes by; 0 columns where it goes by none."""
    stratum: NDArray[np.uint64]
    """Hash of the value of the field whose shares are kept in the split; likewise."""


class Columns:
    """The facts of block after block, each kind in a file of its own.

    Args:
        folder: where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {f.name: self._path(f.name).open("wb") for f in fields(Facts)}
        self._forms: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self.counts: list[int] = []
        """Rows of each block."""

    def add(self, part: Facts) -> None:
        """Keep the facts of the next block."""
        for name, file in self._files.items():
            array: NDArray[Any] = getattr(part, name)
            self._forms[name] = array.dtype, array.shape[1:]
            array.tofile(file)
        self.counts.append(len(part.sizes))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what is not written yet; nothing can be added after."""
        for file in self._files.values():
            file.close()

    def column(self, name: str) -> NDArray[Any]:
        """Return one fact of all rows; its pages are in memory while the array is."""
        kind, further = self._forms.get(name, (np.dtype(np.uint64), ()))
        shape = (sum(self.counts), *further)
        if not all(shape):
            return np.empty(shape, kind)
        return np.memmap(self._path(name), kind, mode="c", shape=shape).view(np.ndarray)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.column"


class Rows:
    """All rows.

    Args:
        folder: the scratch files.
        columns: the facts of all blocks, none of which is still to come.
        files: number of the file that each block is of.
        names: names of the files.
    """

    def __init__(self, folder: Path, columns: Columns, files: Sequence[int], names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names
        self._columns = columns
        self._files_of_blocks = np.array(files, np.int32)
        self.counts = columns.counts
        """Rows of each block."""
        self.firsts = np.cumsum([0, *self.counts])
        """Number of each block's first row."""

    @property
    def facts(self) -> Facts:
        """The facts of all rows, read from disk where they are looked at: hold them no longer than they are needed."""
        return Facts(**{f.name: self._columns.column(f.name) for f in fields(Facts)})

    @property
    def files(self) -> NDArray[np.int32]:
        """Number of each row's file."""
        return np.repeat(self._files_of_blocks, self.counts)

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def line(self, number: int) -> bytes:
        """Return a row as it stands in the dataset."""
        return next(self.lines(np.array([number])))

    def read(self, number: int) -> dict[str, Any]:
        """Return one row, parsed."""
        row: dict[str, Any] = orjson.loads(self.line(number))
        return row

    def lines(self, numbers: NDArray[np.int64]) -> Iterator[bytes]:
        """Yield the lines of some rows, by ascending number."""
        blocks = np.searchsorted(self.firsts, numbers, side="right") - 1
        for block in np.unique(blocks).tolist():
            first, ends = self.firsts[block], self.ends(block)
            at = numbers[blocks == block] - first
            yield from scratch.read_lines(self._folder, block, ends[at] - self._sizes(block)[at], ends[at])

    def ends(self, block: int) -> NDArray[np.int64]:
        """Return where the lines of a block end in its file, bytes."""
        return np.cumsum(self._sizes(block), dtype=np.int64)

    def block(self, block: int) -> bytes:
        """Return all lines of a block."""
        return scratch.read_block(self._folder, block)

    def band(self, band: int) -> NDArray[np.uint64]:
        """Return one band's keys of all rows."""
        return scratch.read_band(self._folder, self.counts, band)

    def file(self, number: int) -> str:
        """Return the name of the file that a row came from."""
        return self._names[int(self._files_of_blocks[np.searchsorted(self.firsts, number, side="right") - 1])]

    def _sizes(self, block: int) -> NDArray[np.uint32]:
        sizes: NDArray[np.uint32] = self._columns.column("sizes")[self.firsts[block] : self.firsts[block + 1]]
        return sizes
