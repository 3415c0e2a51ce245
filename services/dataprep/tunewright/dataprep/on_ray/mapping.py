"""Maps blocks by tasks of a Ray cluster: results in the order of the blocks, rows into the stage's scratch folder.

A block travels with its bytes: a node needs neither the stage's folders nor the store. Ray keeps them as objects (on
its disks where memory is short) as long as the keys made of them, so that what a lost node held can be made again.
Knows nothing of what a block holds.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np

from tunewright.dataprep import scratch
from tunewright.dataprep.blocks import Block
from tunewright.dataprep.mapping import Job, Mapped
from tunewright.dataprep.on_ray import tasks
from tunewright.dataprep.on_ray.session import Ref, Session
from tunewright.dataprep.pool import Check
from tunewright.dataprep.readers import carrying

_WINDOW = 2
"""Blocks under way or done and waiting, for each task at once."""
_RANGE_BYTES = 256 << 20
_FEWEST_RANGES, _MOST_RANGES = 2, 1000


def ranges_for(total_bytes: int, workers: int) -> int:
    """Return into how many ranges the band keys are divided; the result does not depend on it."""
    return min(max(workers, total_bytes // _RANGE_BYTES, _FEWEST_RANGES), _MOST_RANGES)


class Mapping:
    """Runs the map step; a context like the other pools.

    Args:
        session: the cluster.
        job: what is the same for every block.
        ranges: ranges of band keys; 0 where near-duplicates are not looked for.
    """

    def __init__(self, session: Session, job: Job, ranges: int) -> None:
        self._session = session
        self._folder = job.folder
        self._job = session.put(tasks.packed(job))
        self.keys: list[list[Ref]] = []
        """Block → range → its Keys."""
        self.ranges = ranges

    def ordered(self, blocks: Iterable[Block], check: Check) -> Iterator[Mapped]:
        """Yield what became of each block, in order."""
        waiting: deque[list[Ref]] = deque()
        source = iter(blocks)
        while True:
            while len(waiting) < _WINDOW * self._session.workers and (block := next(source, None)) is not None:
                check()
                waiting.append(self._start(block))
            if not waiting:
                return
            mapped, lines, *keys = waiting.popleft()
            result, rows = self._session.get([mapped, lines])
            scratch.write_block(self._folder, result.block.number, rows, np.empty((len(rows), 0), np.uint64))
            self.keys.append(keys)
            yield result

    def forget(self) -> None:
        """Let the cluster drop the blocks and their keys."""
        self.keys.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the tasks to the session, which ends them."""

    def _start(self, block: Block) -> list[Ref]:
        data = self._session.put(replace(block, part=carrying(block.part)))
        return self._session.start(
            tasks.map_block, data, self._job, self.ranges, self._session.version, returns=2 + self.ranges
        )
