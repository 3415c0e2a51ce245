"""The cluster as the stage sees it: maps blocks, then finds near-duplicates among their rows. Knows no insides."""

from types import TracebackType
from typing import Self

from tunewright.chassis.stage import Reporter
from tunewright.dataprep.blocks import Block
from tunewright.dataprep.deciding import FindNear
from tunewright.dataprep.mapping import Job, Mapped
from tunewright.dataprep.on_ray.mapping import Mapping, ranges_for
from tunewright.dataprep.on_ray.session import Session
from tunewright.dataprep.on_ray.shuffle import finder
from tunewright.dataprep.pool import Workers


class RayCluster:
    """A connection to a Ray cluster; arguments and errors are `Session`'s."""

    def __init__(self, address: str, workers: int, report: Reporter) -> None:
        self._session = Session(address, workers, report)
        self._mapping: Mapping | None = None

    def mapping(self, job: Job, total_bytes: int) -> Workers[Block, Mapped]:
        """Return what maps the blocks."""
        ranges = ranges_for(total_bytes, self._session.workers) if job.spec.duplicates.near else 0
        self._mapping = Mapping(self._session, job, ranges)
        return self._mapping

    @property
    def near(self) -> FindNear:
        """What finds near-duplicates among the rows that were mapped."""
        if self._mapping is None:
            raise RuntimeError("no block was mapped")
        return finder(self._session, self._mapping)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the cluster; what still runs there for this stage is ended."""
        self._session.close()
