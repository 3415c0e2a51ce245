"""Merged weights written as a stream of parts: any number of threads, memory for one part each, the same bytes always.

A part's bytes are read from the base into one buffer, changed in place, and written. Each part is computed on one core
from the same rows in the same blocks, so sums are taken in the same order whatever the number of threads. Knows
nothing of probes and tokenizers.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from tunewright.artifacts import canonical_json, file_sha256
from tunewright.merger.files import LocalFiles, Source
from tunewright.merger.headers import TensorInfo
from tunewright.merger.parts import Part, Rows, cut, row_count
from tunewright.merger.plan import MergePlan
from tunewright.merger.progress import UnfinishedModel
from tunewright.merger.sharding import Shard, lay_out, write_index
from tunewright.merger.sources import sampled_sha256
from tunewright.merger.weights import DTYPES, Change, prepare

OnPart = Callable[[int, int], None]
"""Called after each part with (bytes done, bytes in all)."""


def write_merged(
    plan: MergePlan, output_dir: Path, max_shard_bytes: int, on_part: OnPart, threads: int | None = None
) -> list[Path]:
    """Write the merged model's safetensors files, and the index if they are several; return the files.

    What an earlier attempt at the same merge left in `output_dir` is gone on with. Files appear under their names once
    all are complete.

    Args:
        plan: what happens to each tensor.
        output_dir: folder for the files.
        max_shard_bytes: bytes of tensors in a file at most.
        on_part: told of what is done; what it raises ends the merge.
        threads: how many compute at once; None: one a core.

    Raises:
        Refused: the result holds NaN or infinity, or a file is damaged.
        DiskFull: there is no room for the files.
    """
    shards = lay_out(plan.tensors, max_shard_bytes)
    unfinished = UnfinishedModel(output_dir, shards, _mark(plan, shards))
    unfinished.open()
    with closing(unfinished), closing(LocalFiles()) as source:
        parts = list(cut(shards))
        _write_parts(parts, Merger(plan, source), unfinished, on_part, threads or len(os.sched_getaffinity(0)))
        paths = unfinished.finish()
    write_index(output_dir, shards)
    return paths


def _write_parts(
    parts: list[Part], merger: "Merger", unfinished: UnfinishedModel, on_part: OnPart, threads: int
) -> None:
    done, total = 0, sum(part.size_bytes for part in parts)

    def work(number: int) -> int:
        """Write one part if it is not there."""
        part = parts[number]
        if unfinished.holds(part):
            merger.skip(part)
        else:
            merger.expect(parts[number + threads : number + threads + 1])
            unfinished.write(part, merger.merge(part))
        return part.size_bytes

    with _one_core_each(), ThreadPoolExecutor(threads, "merge", lambda: torch.set_num_threads(1)) as pool:
        futures = [pool.submit(work, number) for number in range(len(parts))]
        try:
            for future in as_completed(futures):
                done += future.result()
                on_part(done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Merger:
    """Makes the bytes of parts; safe for threads, each of which keeps one buffer."""

    def __init__(self, plan: MergePlan, source: Source) -> None:
        self._plan, self._source, self._touched = plan, source, plan.touched
        self._prepared: dict[str, _Prepared] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def merge(self, part: Part) -> memoryview:
        """Return a part's bytes; they stand until this thread merges the next one.

        Raises:
            Refused: the result holds NaN or infinity.
        """
        buffer = self._buffer(part.size_bytes)
        view = _bytes(buffer)
        view[: len(part.head)] = part.head
        position = len(part.head)
        for rows in part.rows:
            end = position + rows.size_bytes
            self._source.read_into(rows.tensor.file, rows.offset, view[position:end])
            if rows.tensor.name in self._touched:
                self._apply(rows, buffer[position:end])
            position = end
        return view

    def expect(self, parts: list[Part]) -> None:
        """Let the source know what comes soon."""
        for rows in (rows for part in parts for rows in part.rows):
            self._source.expect(rows.tensor.file, rows.offset, rows.size_bytes)

    def skip(self, part: Part) -> None:
        """Note that a part's rows are not asked for."""
        for rows in part.rows:
            self._let_go(rows)

    def _buffer(self, size: int) -> torch.Tensor:
        """Return this thread's buffer of bytes, grown if need be."""
        found: torch.Tensor | None = getattr(self._local, "buffer", None)
        if found is None or len(found) < size:
            found = self._local.buffer = torch.empty(size, dtype=torch.uint8)
        return found[:size]

    def _apply(self, rows: Rows, data: torch.Tensor) -> None:
        """Change the base's rows in place."""
        typed = _typed(data, rows)
        with self._change(rows) as change:
            change.apply(typed, rows.start)
        if typed.data_ptr() != data.data_ptr():
            data.copy_(typed.reshape(-1).view(torch.uint8))

    @contextmanager
    def _change(self, rows: Rows) -> Iterator[Change]:
        """Yield what happens to a tensor: prepared once, forgotten after its last row."""
        with self._lock:
            entry = self._prepared.setdefault(rows.tensor.name, _Prepared())
        with entry.lock:
            if entry.change is None:
                entry.change = prepare(rows.tensor, self._plan, self._read)
        try:
            yield entry.change
        finally:
            self._let_go(rows)

    def _let_go(self, rows: Rows) -> None:
        if rows.tensor.name not in self._touched:
            return
        with self._lock:
            entry = self._prepared.setdefault(rows.tensor.name, _Prepared())
            entry.rows_done += rows.stop - rows.start
            if entry.rows_done == row_count(rows.tensor):
                del self._prepared[rows.tensor.name]

    def _read(self, tensor: TensorInfo, start: int, stop: int) -> torch.Tensor:
        rows = Rows(tensor, start, stop)
        data = torch.empty(rows.size_bytes, dtype=torch.uint8)
        self._source.read_into(tensor.file, rows.offset, _bytes(data))
        return _typed(data, rows)


class _Prepared:
    """A tensor's change, and how many of its rows are done."""

    def __init__(self) -> None:
        self.change: Change | None = None
        self.lock = threading.Lock()
        self.rows_done = 0


def _bytes(data: torch.Tensor) -> memoryview:
    array: Any = data.numpy()
    return memoryview(array)


def _typed(data: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return bytes as rows of their tensor's dtype: the same memory, or a copy where that is not aligned."""
    dtype = DTYPES[rows.tensor.dtype]
    aligned = data.clone() if data.storage_offset() % dtype.itemsize else data
    return aligned.view(dtype).reshape(rows.stop - rows.start, *rows.tensor.shape[1:])


@contextmanager
def _one_core_each() -> Iterator[None]:
    """Keep torch from dividing a product among cores, which changes the order of its sums."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mark(plan: MergePlan, shards: list[Shard]) -> str:
    """Return the SHA-256 of what the output's bytes depend on: layout, changes, samples of the base, the adapter."""
    layout = [[shard.name, [[t.name, t.dtype, t.shape, t.size_bytes] for t in shard.tensors]] for shard in shards]
    changes = {name: repr(change) for name, change in plan.changes.items()}
    base = sampled_sha256(sorted({tensor.file for tensor in plan.tensors}))
    adapter = [file_sha256(file) for file in sorted({tensor.file for tensor in plan.adapter.values()})]
    document = {
        "layout": layout,
        "changes": changes,
        "quantized": [repr(plan.quantization), plan.quantized],
        "base": base,
        "adapter": adapter,
    }
    return hashlib.sha256(canonical_json(document)).hexdigest()
