"""Keeps the services of one stack alive: starts them in order, restarts what died with growing pauses, stops them all.

It sees services as commands with a sign of readiness (`services.Service`) and writes what it sees to state.json.
Killed itself, it leaves the services running; its successor adopts them by their marks. Knows nothing of what they do.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil

from tunewright.cli.errors import CliError
from tunewright.cli.stack import processes
from tunewright.cli.stack.folder import ServiceStatus, StackFolder, StackStatus
from tunewright.cli.stack.processes import SERVICE_MARK, STACK_MARK, ProcessMark
from tunewright.cli.stack.services import Launch, Service

TICK_SECONDS = 0.1
FIRST_STARTS = 2
"""Tries of a service's very first start: one more than needed, as a port picked by the OS may be lost in a race."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""After this long up, a service's pauses start small again."""
LOG_LIMIT_BYTES = 50 * 1024 * 1024


@dataclass
class _Watch:
    """What the supervisor alone remembers of a service."""

    service: Service
    status: ServiceStatus
    child: subprocess.Popen[bytes] | None = None
    launch: Launch | None = None
    failures: int = 0
    """Starts in a row that ended early."""
    not_before: float = 0.0
    """Seconds of the monotonic clock."""

    def exit_code(self) -> int | None:
        """Return how it ended: None while it lives, -1 where only its absence can be seen."""
        if self.child is not None:
            return self.child.poll()
        return None if self.status.process and self.status.process.find() else -1


@dataclass
class Supervisor:
    """One stack under supervision."""

    folder: StackFolder
    services: Sequence[Service]
    status: StackStatus
    stop_requested: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._unwritten = False
        self._stack_id = self.folder.config().stack_id
        self._watches = {service.name: self._adopt(service) for service in self.services}
        self.status.services = {name: watch.status for name, watch in self._watches.items()}

    def run(self) -> bool:
        """Supervise until asked to stop or a service cannot even start; True if it ended because it was asked to."""
        self.status.supervisor = ProcessMark.of(psutil.Process().pid)
        self._set_phase("starting")
        failed = False
        while not (self.stop_requested.is_set() or failed):
            fatal = [self._step(watch) for watch in self._watches.values()]  # every service has its turn
            failed = any(fatal)
            if self.status.phase == "starting" and self._all_served():
                self._set_phase("ready")
            elif self._unwritten:
                self._write()
            self.stop_requested.wait(TICK_SECONDS)
        self._stop_all()
        self._set_phase("failed" if failed else "stopped")
        return not failed

    def _adopt(self, service: Service) -> _Watch:
        """Go on with a process that a former supervisor left running."""
        former = self.status.services.get(service.name, ServiceStatus())
        if former.state == "up" and former.process and former.process.find():
            return _Watch(service, former)
        kept = ServiceStatus(addresses=former.addresses if self._any_lives() else {}, restarts=former.restarts)
        return _Watch(service, kept)

    def _any_lives(self) -> bool:
        """Return True if processes of this stack run, so that their neighbours have to come back where they were."""
        return any(s.process and s.process.find() for s in self.status.services.values())

    def _all_served(self) -> bool:
        return all(watch.status.state == "up" for watch in self._watches.values())

    def _step(self, watch: _Watch) -> bool:
        """Bring one service one step further; True if the stack cannot be started."""
        match watch.status.state:
            case "waiting" | "restarting":
                if time.monotonic() >= watch.not_before and self._may_start(watch):
                    return self._start(watch)
            case "starting" | "up":
                code = watch.exit_code()
                if code is not None:
                    return self._died(watch, code)
                self._look_for_readiness(watch)
            case _:
                pass
        return False

    def _may_start(self, watch: _Watch) -> bool:
        """The first start waits for other services; a restart does not: they are there or come back by themselves."""
        others = [self.status.services[name] for name in watch.service.after]
        return all(other.addresses and (watch.status.ready or other.state == "up") for other in others)

    def _start(self, watch: _Watch) -> bool:
        service, status = watch.service, watch.status
        processes.stop(processes.left_behind(self._stack_id, service.name), grace_seconds=1)
        try:
            watch.launch = service.launch({name: known.addresses for name, known in self.status.services.items()})
            watch.child = self._spawn(service.name, watch.launch)
        except CliError as error:
            status.state, status.detail = "failed", error.message
            self.status.error = f"{error.message}. {error.remedy}"
            return True
        except OSError as error:  # a full disk or process table passes; it is tried again
            self._pause(watch, f"cannot be started: {error}")
            return False
        status.state, status.started, status.detail = "starting", time.time(), ""
        status.process = ProcessMark.of(watch.child.pid)
        self._write()
        return False

    def _spawn(self, name: str, launch: Launch) -> subprocess.Popen[bytes]:
        log = self.folder.log(name)
        if log.is_file() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        environment = launch.environment | {STACK_MARK: self._stack_id, SERVICE_MARK: name}
        return processes.spawn(launch.command, environment=environment, log=log, directory=launch.directory)

    def _look_for_readiness(self, watch: _Watch) -> None:
        if watch.status.state == "starting" and watch.launch is not None:
            addresses = watch.service.ready(watch.launch.addresses)
            if addresses is not None:
                watch.status.addresses = addresses
                watch.status.state, watch.status.ready, watch.status.detail = "up", time.time(), ""
                self._write()
        elif watch.failures and time.time() - watch.status.ready > STEADY_SECONDS:
            watch.failures = 0

    def _died(self, watch: _Watch, code: int) -> bool:
        words = _ending(code)
        if not watch.status.ready and watch.failures + 1 >= FIRST_STARTS:
            watch.status.state, watch.status.detail = "failed", words
            self.status.error = f"{watch.service.name} {words} while it started"
            return True
        if not watch.status.ready:
            watch.status.addresses = {}  # other ports next time: one may have been taken in between
        else:
            watch.status.restarts += 1
        self._pause(watch, words)
        return False

    def _pause(self, watch: _Watch, why: str) -> None:
        watch.not_before = time.monotonic() + restart_pause(watch.failures)
        watch.failures += 1
        watch.status.state, watch.status.detail = "restarting", why
        self._write()

    def _stop_all(self) -> None:
        """Stop in the reverse order of the start: nobody loses what it needs to finish its last sentence."""
        self._set_phase("stopping")
        waves: list[list[_Watch]] = []
        for watch in self._watches.values():
            if not waves or any(other.service.name in watch.service.after for other in waves[-1]):
                waves.append([])
            waves[-1].append(watch)
        for wave in reversed(waves):
            self._stop_wave(wave)
            for watch in wave:
                if watch.status.state != "failed":
                    watch.status.state = "stopped"
            self._write()

    def _stop_wave(self, wave: list[_Watch]) -> None:
        found = [watch.status.process.find() for watch in wave if watch.status.process]
        alive = [process for process in found if process is not None]
        family = processes.with_descendants(alive)
        processes.stop(alive, grace_seconds=max(watch.service.grace_seconds for watch in wave))
        processes.stop((member for member in family if member.is_running()), grace_seconds=1)
        for watch in wave:
            processes.stop(processes.left_behind(self._stack_id, watch.service.name), grace_seconds=1)
            if watch.child is not None:
                watch.child.poll()

    def _set_phase(self, phase: str) -> None:
        self.status.phase = phase  # type: ignore[assignment]  # the callers' words are all of Phase
        self._write()

    def _write(self) -> None:
        """Write the state; on a full disk the services are kept alive all the same, and it is written later."""
        try:
            self.folder.write_status(self.status)
            self._unwritten = False
        except OSError as error:
            if not self._unwritten:
                sys.stderr.write(f"state.json cannot be written: {error}\n")
            self._unwritten = True


def restart_pause(failures: int) -> float:
    """Return the seconds before the next start after so many failed ones in a row."""
    return min(FIRST_PAUSE_SECONDS * 2.0 ** min(failures, 16), LONGEST_PAUSE_SECONDS)


def _ending(code: int) -> str:
    if code == -1:
        return "disappeared"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
