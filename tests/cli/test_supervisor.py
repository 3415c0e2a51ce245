"""The supervisor over real processes."""

import os
import signal
from dataclasses import replace

from tests.cli.stack_programs import DIES, Running, service, wait_for
from tunewright.cli.stack import processes
from tunewright.cli.stack.folder import ServiceStatus, StackStatus
from tunewright.cli.stack.processes import ProcessMark
from tunewright.cli.stack.supervisor import restart_pause


def test_services_start_after_those_they_need_and_the_stack_is_then_ready(running: Running) -> None:
    first = service(running.folder, "first")
    second = service(running.folder, "second", after=("first",))
    running.start(first, second)
    wait_for(lambda: running.folder.status().phase == "ready", "phase ready")
    status = running.folder.status()
    assert status.services["second"].started >= status.services["first"].ready
    assert status.services["first"].addresses == {"grpc": "127.0.0.1:1"}


def test_a_service_killed_with_sigkill_is_restarted_and_its_orphans_are_gone(running: Running) -> None:
    supervisor = running.start(service(running.folder, "only", "child"))
    wait_for(lambda: supervisor.status.phase == "ready", "phase ready")
    stack_id = running.folder.config().stack_id
    before = {process.pid for process in processes.left_behind(stack_id, "only")}
    assert len(before) == 2, "the service and its child, which has a session of its own"
    killed = supervisor.status.services["only"].process
    assert killed is not None
    os.kill(killed.pid, signal.SIGKILL)
    wait_for(lambda: running.folder.status().services["only"].restarts == 1, "the restart is written down")
    wait_for(lambda: running.folder.status().services["only"].state == "up", "it is up again")
    after = {process.pid for process in processes.left_behind(stack_id, "only")}
    assert len(after) == 2
    assert not before & after


def test_a_service_that_cannot_start_ends_the_stack_and_the_others_are_stopped(running: Running) -> None:
    good = service(running.folder, "good")
    bad = service(running.folder, "bad", after=("good",), program=DIES)
    supervisor = running.start(good, bad)
    wait_for(lambda: supervisor.status.phase == "failed", "phase failed")
    status = running.folder.status()
    assert status.error == "bad ended with exit code 3 while it started"
    assert status.services["bad"].state == "failed"
    assert status.services["good"].state == "stopped"
    assert processes.last_lines(running.folder.log("bad")) == ["the reason stands here"] * 2


def test_a_service_deaf_to_sigterm_is_killed_after_its_grace(running: Running) -> None:
    supervisor = running.start(service(running.folder, "deaf", "deaf", grace_seconds=0.3))
    wait_for(lambda: supervisor.status.phase == "ready", "phase ready")
    mark = supervisor.status.services["deaf"].process
    running.stop()
    assert mark is not None
    assert mark.find() is None
    assert running.folder.status().phase == "stopped"


def test_a_new_supervisor_adopts_what_a_killed_one_left_running(running: Running) -> None:
    only = service(running.folder, "only")
    former = running.start(only)
    wait_for(lambda: former.status.phase == "ready", "phase ready")
    former._stop_all = lambda: None  # type: ignore[method-assign]  # as after kill -9: nothing is cleaned up
    running.stop()
    pid = former.status.services["only"].process
    successor = running.start(only, status=running.folder.status())
    wait_for(lambda: successor.status.phase == "ready", "phase ready")
    assert successor.status.services["only"].process == pid
    running.stop()
    child = former._watches["only"].child
    assert child is not None
    assert child.poll() is not None, "what was adopted is also stopped"


def test_a_recycled_pid_is_a_stranger_and_is_neither_adopted_nor_killed(running: Running) -> None:
    stranger = processes.spawn(
        ["sleep", "300"], environment={}, log=running.folder.log("stranger"), directory=running.folder.path
    )
    try:
        mark = ProcessMark.of(stranger.pid)
        stale = replace(mark, started=mark.started - 3600)
        assert mark.find() is not None
        assert stale.find() is None
        status = StackStatus(services={"only": ServiceStatus(state="up", process=stale)})
        supervisor = running.start(service(running.folder, "only"), status=status)
        wait_for(lambda: supervisor.status.phase == "ready", "phase ready")
        assert supervisor.status.services["only"].process != stale
        running.stop()
        assert stranger.poll() is None, "the stranger lives on"
    finally:
        stranger.kill()
        stranger.wait()


def test_the_pause_before_a_restart_doubles_up_to_half_a_minute() -> None:
    assert [restart_pause(failures) for failures in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
