"""Processes of a stack: started detached, known by pid and start time, stopped with grace, never a stranger.

Every process carries two marks in its environment, the stack's id and the service's name, which its descendants
inherit. So what a killed service left behind can be found. Knows nothing of what the processes do.
"""

import contextlib
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

STACK_MARK = "TUNEWRIGHT_STACK_ID"
SERVICE_MARK = "TUNEWRIGHT_STACK_SERVICE"
START_TOLERANCE_SECONDS = 2.0
"""The kernel's start times are kept relative to boot; a corrected clock may move them a little."""


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """What makes a process recognisable after its pid was given to another one."""

    pid: int
    started: float
    """Seconds since the epoch."""

    @classmethod
    def of(cls, pid: int) -> "ProcessMark":
        """Return the mark of a process that runs now; of one already gone, a mark that fits nothing."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return cls(pid, 0.0)

    def find(self) -> psutil.Process | None:
        """Return the living process, or None if it ended or its pid now belongs to another one."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) <= START_TOLERANCE_SECONDS
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def to_json(self) -> dict[str, float]:
        """Return it as JSON values."""
        return asdict(self)


def spawn(
    command: Sequence[str], *, environment: Mapping[str, str], log: Path, directory: Path
) -> subprocess.Popen[bytes]:
    """Start a process in its own session with its output appended to `log`.

    Raises:
        OSError: the program cannot be started or the log cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def left_behind(stack_id: str, service: str | None = None) -> list[psutil.Process]:
    """Return the living processes that carry the stack's mark (and the service's), this one left out."""
    found = []
    for process in psutil.process_iter():
        try:
            marks = process.environ()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        named = service is None or marks.get(SERVICE_MARK) == service
        if alive and marks.get(STACK_MARK) == stack_id and named and process.pid != psutil.Process().pid:
            found.append(process)
    return found


def with_descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes and all that they started, also those that cleared the marks from their environment."""
    found: dict[int, psutil.Process] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found |= {member.pid: member for member in (process, *process.children(recursive=True))}
    return list(found.values())


def stop(processes: Iterable[psutil.Process], *, grace_seconds: float) -> int:
    """Ask processes to end, wait, then kill what is left; return how many had to be killed."""
    processes = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_seconds)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    return len(alive)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that the OS says are free, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def port_is_free(port: int) -> bool:
    """Return True if a server could listen on this loopback port now."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def port_holder(port: int) -> str:
    """Return who listens on a port, such as `nginx (pid 812)`; `another process` if this cannot be seen."""
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                pid = connection.pid
                return f"{psutil.Process(pid).name()} (pid {pid})" if pid else "another process"
    except psutil.Error:
        return "another process"
    return "another process"


def last_lines(path: Path, count: int = 15) -> list[str]:
    """Return the end of a log, without empty lines; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]
