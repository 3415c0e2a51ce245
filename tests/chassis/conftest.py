"""A job runner on a store, both kinds of store."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chassis.stages import STAGES
from tunewright.artifacts import MemoryStore, Store
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.settings import ServiceSettings

MakeRunner = Callable[..., JobRunner]


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each test runs on the store in memory and on a real S3 server."""
    if request.param == "memory":
        return MemoryStore()
    found: Store = request.getfixturevalue("s3_store")
    return found


@pytest.fixture
def make_runner(tmp_path: Path) -> Iterator[MakeRunner]:
    """Make runners that are drained at the end of the test."""
    made: list[JobRunner] = []

    def make(store: Store, **settings: object) -> JobRunner:
        defaults = {"work_dir": tmp_path / "work", "stop_grace_seconds": 5}
        made.append(JobRunner("counter", STAGES, store, ServiceSettings(**(defaults | settings))))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for runner in made:
        runner.drain()
