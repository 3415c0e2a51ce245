"""Nothing on a leash outlives its master."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tunewright.chassis import leash

_GRANDCHILD = """
import pathlib, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
pathlib.Path(sys.argv[1]).write_text(str(grandchild.pid))
time.sleep(600)
"""


def start(tmp_path: Path) -> tuple["subprocess.Popen[bytes]", psutil.Process]:
    command = leash.command([sys.executable, "-c", _GRANDCHILD, str(tmp_path / "pid")])
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process, psutil.Process(int((tmp_path / "pid").read_text()))


def gone(process: psutil.Process) -> bool:
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        return False
    return True


def test_closing_the_masters_end_kills_the_whole_group(tmp_path: Path) -> None:
    process, grandchild = start(tmp_path)
    assert process.stdin is not None
    process.stdin.close()
    assert gone(grandchild)
    assert process.wait(10) == 128 + signal.SIGKILL


def test_the_group_dies_when_the_command_ends_before_its_own_children(tmp_path: Path) -> None:
    process, grandchild = start(tmp_path)
    (command,) = psutil.Process(process.pid).children()
    os.kill(command.pid, signal.SIGKILL)
    assert process.wait(10) == 128 + signal.SIGKILL
    assert gone(grandchild)
    assert process.stdin is not None
    process.stdin.close()


def test_killing_the_leash_itself_kills_the_command(tmp_path: Path) -> None:
    process, grandchild = start(tmp_path)
    (command,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert gone(command)
    grandchild.kill()
    assert process.stdin is not None
    process.stdin.close()


def test_the_status_of_the_command_is_handed_on() -> None:
    for status in (0, 7):
        command = leash.command([sys.executable, "-c", f"raise SystemExit({status})"])
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.wait(20) == status


def test_sigterm_reaches_the_command_which_may_end_in_its_own_way() -> None:
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(5)); print('up', flush=True); time.sleep(60)"
    )
    command = leash.command([sys.executable, "-c", code])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(20) == 5
