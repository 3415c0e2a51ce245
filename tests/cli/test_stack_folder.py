"""A stack's folder: secrets, state, who finds it, and what a person is told before anything starts."""

import errno
import os
import shutil
import socket
import stat
from collections import namedtuple
from pathlib import Path

import pytest

from tests.cli.stack_programs import stack
from tunewright.cli.console import make_console
from tunewright.cli.endpoint import find_endpoint
from tunewright.cli.errors import CliError
from tunewright.cli.stack import commands, services
from tunewright.cli.stack.commands import UpOptions
from tunewright.cli.stack.folder import ServiceStatus, StackFolder, StackStatus, find_stack
from tunewright.cli.stack.processes import ProcessMark


def test_secrets_are_made_once_differ_between_stacks_and_are_for_their_owner_alone(tmp_path: Path) -> None:
    one, other = stack(tmp_path / "one"), stack(tmp_path / "other")
    assert one.create() == one.config()
    assert one.config().api_key != other.config().api_key
    assert one.api_key_file.read_text() == one.config().api_key
    assert len(one.config().api_key) >= 32
    for path in (one.api_key_file, one.path / "stack.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(one.path.stat().st_mode) == 0o700


def test_the_state_survives_its_way_through_the_file(tmp_path: Path) -> None:
    folder = stack(tmp_path / "stack")
    mark = ProcessMark.of(os.getpid())
    service = ServiceStatus(state="up", process=mark, addresses={"grpc": "127.0.0.1:1"}, restarts=2)
    status = StackStatus(phase="ready", supervisor=mark, gateway_port=8080, services={"trainer": service})
    folder.write_status(status)
    assert folder.status() == status


def test_a_stack_is_found_from_a_folder_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNEWRIGHT_STACK_DIR", raising=False)
    folder = stack(tmp_path / "var/stack")
    deep = tmp_path / "a/b"
    deep.mkdir(parents=True)
    assert find_stack(deep) == folder
    folder.write_status(StackStatus(gateway_port=4321))
    monkeypatch.chdir(deep)
    endpoint = find_endpoint(None, None)
    assert (endpoint.url, endpoint.api_key) == ("http://127.0.0.1:4321", folder.config().api_key)
    assert folder.config().api_key not in repr(endpoint)
    assert find_endpoint("http://other:1/v1/", "key").url == "http://other:1"


def test_two_supervisors_cannot_hold_one_stack(tmp_path: Path) -> None:
    folder = stack(tmp_path / "stack")
    assert not folder.supervised()
    with folder.supervisor_lock() as free:
        assert free
        assert folder.supervised()
    assert not folder.supervised()


def test_a_damaged_stack_file_is_named_and_not_replaced(tmp_path: Path) -> None:
    folder = stack(tmp_path / "stack")
    (folder.path / "stack.json").write_text("{")
    with pytest.raises(CliError, match=r"stack\.json is damaged"):
        folder.create()
    assert (folder.path / "stack.json").read_text() == "{"


def test_a_port_that_is_taken_is_told_with_its_holder_and_another_one_is_picked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stack(tmp_path / "stack")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(CliError, match=rf"port {taken} is taken by .*\(pid {os.getpid()}\)") as caught:
            commands._gateway_port(folder, UpOptions(port=taken), make_console())
        assert caught.value.remedy
        monkeypatch.setattr(commands, "DEFAULT_PORT", taken)
        picked = commands._gateway_port(folder, UpOptions(), make_console())
    assert picked != taken
    assert f"Port {taken} is taken by" in capsys.readouterr().out
    assert commands._gateway_port(folder, UpOptions(), make_console()) == taken, "free again"


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - shutil's own shape
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 5 * 1024**2))
    folder = StackFolder(tmp_path / "stack")
    with pytest.raises(CliError, match="is full: 5 MiB free, 1024 needed"):
        commands.up(folder, UpOptions(), make_console())
    assert not folder.supervised()


def test_a_service_that_is_not_installed_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "ROOMS", ("artifacts", "no_such_room"))
    with pytest.raises(CliError, match="not installed here: no_such_room"):
        commands.up(StackFolder(tmp_path / "stack"), UpOptions(), make_console())


def test_a_folder_that_cannot_be_made_is_told_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CliError, match=os.strerror(errno.ENOTDIR)) as caught:
        StackFolder(tmp_path / "file/stack").create()
    assert "--dir" in caught.value.remedy
