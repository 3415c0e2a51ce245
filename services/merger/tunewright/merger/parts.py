"""The units of work of a streamed merge: parts of a file, cut where rows of matrices end.

A part is computed by one thread from the same bytes in the same way, whichever thread it is and however many there
are: that is why the output does not depend on their number. Knows nothing of arithmetic, and does not import torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tunewright.merger.headers import TensorInfo
from tunewright.merger.sharding import Shard

PART_BYTES = 8 << 20
"""Data of a part, about: above S3's least size of a part of an upload (5 MiB), small beside a model."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one tensor; a tensor of one dimension has rows of one element."""

    tensor: TensorInfo
    start: int
    stop: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.tensor.size_bytes // row_count(self.tensor)

    @property
    def size_bytes(self) -> int:
        """Bytes of all of them."""
        return (self.stop - self.start) * self.row_bytes

    @property
    def offset(self) -> int:
        """Where they begin in the base's file, bytes."""
        return self.tensor.offset + self.start * self.row_bytes


@dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes of one file to be written."""

    shard: int
    """Number of the file, from 0 on."""
    number: int
    """Number of the part in its file, from 0 on."""
    offset: int
    """Where it begins in the file, bytes."""
    head: bytes
    """The file's header, in its first part; else empty."""
    rows: tuple[Rows, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the part."""
        return len(self.head) + sum(rows.size_bytes for rows in self.rows)


def cut(shards: list[Shard]) -> Iterator[Part]:
    """Yield the parts of all files, in order, without gaps."""
    for number, shard in enumerate(shards):
        header, offset = shard.header, 0
        groups = list(_groups(shard)) or [()]
        for index, rows in enumerate(groups):
            part = Part(number, index, offset, b"" if index else header, rows)
            yield part
            offset += part.size_bytes


def _groups(shard: Shard) -> Iterator[tuple[Rows, ...]]:
    """Yield runs of rows of at least PART_BYTES each, but for the last."""
    gathered: list[Rows] = []
    size = 0
    for tensor in shard.tensors:
        for rows in _pieces(tensor):
            gathered.append(rows)
            size += rows.size_bytes
            if size >= PART_BYTES:
                yield tuple(gathered)
                gathered, size = [], 0
    if gathered:
        yield tuple(gathered)


def _pieces(tensor: TensorInfo) -> Iterator[Rows]:
    """Yield a tensor's rows in runs of at most about PART_BYTES; nothing for an empty tensor."""
    if not tensor.size_bytes:
        return
    rows = row_count(tensor)
    step = max(1, PART_BYTES // (tensor.size_bytes // rows))
    for start, stop in pairwise([*range(0, rows, step), rows]):
        yield Rows(tensor, start, stop)


def row_count(tensor: TensorInfo) -> int:
    """Return the number of rows: the first dimension; a single figure is one row."""
    return tensor.shape[0] if tensor.shape else 1
