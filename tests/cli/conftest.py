"""A supervisor over small real processes, in a thread of its own, stopped at the end whatever happened."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.stack_programs import Running, stack
from tunewright.cli.stack import processes


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(stack(tmp_path / "stack"))
    yield found
    found.stop()
    left = processes.left_behind(found.folder.config().stack_id)
    processes.stop(left, grace_seconds=0)
    assert not left, "a supervisor that was stopped leaves no process behind"
