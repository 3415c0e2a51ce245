"""Small real services for the supervisor's tests: a process that says it serves, and then waits, dies or is deaf."""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunewright.cli.stack.folder import StackFolder, StackStatus
from tunewright.cli.stack.services import Addresses, Launch, Service, inherited
from tunewright.cli.stack.supervisor import Supervisor

SERVES = """
import json, os, pathlib, signal, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "child" in sys.argv:
    import subprocess
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
print("serving", flush=True)
ready = pathlib.Path(sys.argv[1])
ready.with_suffix(".tmp").write_text(json.dumps({"grpc": "127.0.0.1:1"}))
ready.with_suffix(".tmp").rename(ready)
time.sleep(300)
"""
DIES = "import sys; print('the reason stands here'); sys.exit(3)"


def service(
    folder: StackFolder,
    name: str,
    *words: str,
    after: tuple[str, ...] = (),
    program: str = SERVES,
    grace_seconds: float = 5,
) -> Service:
    """Return a service that runs `program` with the words given."""
    ready_file = folder.ready_file(name)

    def launch(_: Addresses) -> Launch:
        ready_file.unlink(missing_ok=True)
        command = [sys.executable, "-c", program, str(ready_file), *words]
        return Launch(command=command, environment=inherited(), directory=folder.work(name), addresses={})

    def ready(_: Mapping[str, str]) -> dict[str, str] | None:
        return json.loads(ready_file.read_text()) if ready_file.is_file() else None

    return Service(name=name, after=after, launch=launch, ready=ready, grace_seconds=grace_seconds)


def stack(path: Path) -> StackFolder:
    """Return a fresh stack's folder."""
    folder = StackFolder(path)
    folder.create()
    return folder


WAIT_SECONDS = 20.0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.02)


@dataclass
class Running:
    """Supervisors under test, one after the other over the same folder."""

    folder: StackFolder
    threads: list[tuple[Supervisor, threading.Thread]] = field(default_factory=list)

    def start(self, *services: Service, status: StackStatus | None = None) -> Supervisor:
        supervisor = Supervisor(self.folder, services, status or StackStatus())
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        self.threads.append((supervisor, thread))
        return supervisor

    def stop(self) -> None:
        for supervisor, thread in self.threads:
            supervisor.stop_requested.set()
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive()
