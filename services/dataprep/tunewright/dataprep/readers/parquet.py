"""Parquet by row groups: small ones are read from the file, of large ones each block carries its rows (Arrow IPC)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
from pyarrow import parquet

from tunewright.chassis.errors import InvalidData
from tunewright.dataprep.readers.block import Block
from tunewright.dataprep.readers.layout import Layout
from tunewright.dataprep.readers.sources import Line, Source

_BATCH_ROWS = 4096
_LARGE = 4
"""Row groups of more than this many blocks are handed out in pieces."""


def cut(source: Source, layout: Layout, block_bytes: int) -> Iterator[Block]:
    """Yield blocks of whole row groups, or of pieces of large ones.

    Raises:
        InvalidData: the file is broken.
    """
    try:
        yield from _cut(source, layout, block_bytes)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _broken(source, error) from error


def _cut(source: Source, layout: Layout, block_bytes: int) -> Iterator[Block]:
    number, row = 0, 1
    with parquet.ParquetFile(source.path, memory_map=False) as file:
        groups = file.metadata.num_row_groups
        for group in range(groups):
            facts = file.metadata.row_group(group)
            end = source.size_bytes * (group + 1) // groups
            if facts.total_byte_size <= _LARGE * block_bytes:
                if facts.num_rows:
                    yield Block(
                        source=source, layout=layout, number=number, first=row, start=0, end=end, spans=(group,)
                    )
                    number, row = number + 1, row + facts.num_rows
                continue
            rows = max(1, min(_BATCH_ROWS, facts.num_rows * block_bytes // facts.total_byte_size))
            for batch in file.iter_batches(rows, row_groups=[group], use_threads=False):
                data = _pack([batch])
                yield Block(source=source, layout=layout, number=number, first=row, start=0, end=end, data=data)
                number, row = number + 1, row + batch.num_rows


def _pack(batches: Sequence[pa.RecordBatch]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def carrying(block: Block) -> Block:
    """Return the block with its rows.

    Raises:
        InvalidData: the row group is broken.
    """
    try:
        return replace(block, data=_pack(list(_batches(block))))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _broken(block.source, error) from error


def read(block: Block) -> Iterator[Line]:
    """Yield the rows of a block as objects, column → value.

    Raises:
        InvalidData: the row group is broken.
    """
    number = block.first
    try:
        for batch in _batches(block):
            for value in batch.to_pylist():
                yield Line(number, value, None, b"")
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _broken(block.source, error) from error


def _batches(block: Block) -> Iterator[pa.RecordBatch]:
    if block.data is not None:
        with pa.ipc.open_stream(block.data) as reader:
            yield from reader
        return
    with parquet.ParquetFile(block.source.path) as file:
        yield from file.iter_batches(_BATCH_ROWS, row_groups=list(block.spans), use_threads=False)


def _broken(source: Source, error: Exception) -> InvalidData:
    return InvalidData(f"{source.name} is a broken Parquet file: {error}", remedy="Write it again, or upload it again.")
