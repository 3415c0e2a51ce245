"""Where the work of a run is done: by processes of this machine, or on a cluster. Knows only how one is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tunewright.chassis.settings import read_settings
from tunewright.chassis.stage import Reporter
from tunewright.dataprep.blocks import Block
from tunewright.dataprep.deciding import FindNear
from tunewright.dataprep.mapping import Job, Mapped
from tunewright.dataprep.pool import Workers
from tunewright.dataprep.settings import DataprepSettings
from tunewright.dataprep.spec import DataprepSpec


class Cluster(Protocol):
    """Does the costly parts of a run elsewhere."""

    def mapping(self, job: Job, total_bytes: int) -> Workers[Block, Mapped]:
        """Return what maps the blocks; files are `total_bytes` large in all."""

    @property
    def near(self) -> FindNear:
        """What finds near-duplicates among the rows that were mapped."""


@contextmanager
def cluster_of(spec: DataprepSpec, report: Reporter) -> Iterator[Cluster | None]:
    """Yield the cluster that the run was given, None for this machine alone.

    `report.runtime` may hold `launcher` and `workers`: a service's job keeps them apart from its identity.

    Raises:
        InvalidSpec: there is no cluster here.
        Unavailable: it does not answer.
    """
    if report.runtime.get("launcher", spec.launcher) == "local":
        yield None
        return
    settings = read_settings(DataprepSettings)
    settings.refuse_without_cluster()
    from tunewright.dataprep.on_ray.cluster import RayCluster  # noqa: PLC0415 - Ray is there only where it is wanted

    with RayCluster(settings.ray_address, workers_of(spec, report), report) as cluster:
        yield cluster


def workers_of(spec: DataprepSpec, report: Reporter) -> int:
    """Return how many processes or tasks the run was given, 0 for as many as there are processors."""
    return int(report.runtime.get("workers") or spec.workers)
