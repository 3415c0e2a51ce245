"""The whole local stack of real services: up, killed piece by piece, healed, down."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.shell import tunewright
from tests.cli.stack_programs import wait_for
from tunewright.cli.client import Gateway
from tunewright.cli.endpoint import find_endpoint
from tunewright.cli.stack import processes
from tunewright.cli.stack.folder import StackFolder
from tunewright.cli.stack.services import ROOMS, answers

SERVICES = ("store", *ROOMS, "gateway")

pytestmark = pytest.mark.heavy


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StackFolder]:
    """A folder in which a stack may be started; whatever runs in it is stopped at the end."""
    found = StackFolder(tmp_path / "stack")
    yield found
    if found.exists:
        tunewright("down", "--dir", str(found.path), timeout=120)


def pid(folder: StackFolder, service: str) -> int:
    mark = folder.status().services[service].process
    assert mark is not None
    return mark.pid


def kill(folder: StackFolder, service: str) -> None:
    """Kill a service by SIGKILL and wait until the stack is whole again."""
    restarts = folder.status().services[service].restarts
    os.kill(pid(folder, service), signal.SIGKILL)
    wait_for(lambda: folder.status().services[service].restarts > restarts, f"the death of {service} is seen")
    wait_for(lambda: folder.status().services[service].state == "up", f"{service} is up again", 60)
    wait_for(lambda: answers(f"{folder.status().url}/readyz"), "the gateway says ready", 60)


def test_a_stack_comes_up_heals_and_goes_down_without_a_trace(folder: StackFolder) -> None:
    where = ("--dir", str(folder.path))
    first = tunewright("up", *where, timeout=240)
    assert first.returncode == 0, first.stderr
    url = folder.status().url
    assert f"{url} answers" in first.stdout
    assert folder.config().api_key not in first.stdout, "a key is never printed"
    models = tunewright("models", *where)
    assert (models.returncode, models.stdout) == (0, "No model answers yet: tunewright run RECIPE.yaml\n"), (
        models.stderr
    )
    assert tunewright("doctor", "--json", *where).stdout.count('answers"') == 2, "store and gateway are reached"

    before = {service: pid(folder, service) for service in SERVICES}
    again = tunewright("up", *where)
    assert (again.returncode, "already up" in again.stdout) == (0, True), again.stderr
    assert {service: pid(folder, service) for service in SERVICES} == before

    other = tunewright("up", *where, "--port", "1234")
    assert (other.returncode, "already runs with --port" in other.stderr) == (1, True)

    raw = folder.path / "raw.jsonl"
    raw.write_text('{"instruction": "a", "output": "b"}\n' * 1000)
    with Gateway(find_endpoint(None, None, folder.path)) as gateway:
        file_id = gateway.upload(raw, lambda _: None)

    for service in ("trainer", "store", "gateway"):
        kill(folder, service)
    assert folder.status().url == url

    supervisor = folder.status().supervisor
    assert supervisor is not None
    before = {service: pid(folder, service) for service in SERVICES}
    os.kill(supervisor.pid, signal.SIGKILL)
    os.kill(before["merger"], signal.SIGKILL)
    wait_for(lambda: not folder.supervised(), "the supervisor is gone")
    alone = tunewright("status", *where)
    assert (alone.returncode, "the supervisor is gone" in alone.stdout) == (1, True)
    healed = tunewright("up", *where, timeout=120)
    assert healed.returncode == 0, healed.stderr
    after = {service: pid(folder, service) for service in SERVICES}
    assert after.pop("merger") != before.pop("merger")
    assert after == before, "what ran was adopted"

    assert tunewright("status", *where).returncode == 0
    with Gateway(find_endpoint(None, None, folder.path)) as gateway:
        assert gateway.get(f"/v1/files/{file_id}")["bytes"] == raw.stat().st_size, "no kill lost data"
    down = tunewright("down", *where, timeout=120)
    assert (down.returncode, "Stopped" in down.stdout) == (0, True), down.stderr
    assert processes.left_behind(folder.config().stack_id) == []
    assert not folder.supervised()
    assert "Nothing was running" in tunewright("down", *where).stdout
    assert list(folder.store.glob("*.dat")), "data stay"


def test_a_service_that_dies_at_its_start_is_told_with_the_end_of_its_log(folder: StackFolder) -> None:
    failed = tunewright("up", "--dir", str(folder.path), timeout=120, TUNEWRIGHT_MAX_CONCURRENT_JOBS="none")
    assert failed.returncode == 1
    assert "ended with exit code" in failed.stderr
    assert "TUNEWRIGHT_MAX_CONCURRENT_JOBS" in failed.stderr, "the service's own words are quoted"
    assert "Traceback" not in failed.stderr
    assert processes.left_behind(folder.config().stack_id) == [], "everything was stopped again"


def test_down_stops_a_stack_whose_supervisor_is_gone(folder: StackFolder) -> None:
    where = ("--dir", str(folder.path))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    assert tunewright("up", *where, "--port", str(free), timeout=240).returncode == 0
    assert folder.status().gateway_port == free
    supervisor = folder.status().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not folder.supervised(), "the supervisor is gone")
    assert "Stopped" in tunewright("down", *where, timeout=120).stdout
    assert processes.left_behind(folder.config().stack_id) == []
    assert folder.status().phase == "stopped"
