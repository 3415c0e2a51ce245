"""`up`, `down`, `status`: what a person does with the local stack. The work is the supervisor's; this waits and shows.

Knows nothing of how a service is started.
"""

import importlib.util
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from tunewright.cli.errors import CliError
from tunewright.cli.stack import processes, services
from tunewright.cli.stack.certificates import ensure_certificates
from tunewright.cli.stack.display import service_table
from tunewright.cli.stack.folder import ServiceStatus, StackFolder, StackStatus

DEFAULT_PORT = 8080
START_TIMEOUT_SECONDS = 300.0
STOP_TIMEOUT_SECONDS = 120.0
LEAST_FREE_BYTES = 1024**3
POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """What the person asked for; None stands for "as it is, or the default"."""

    port: int | None = None
    import_root: Path | None = None


def up(folder: StackFolder, options: UpOptions, console: Console) -> StackStatus:
    """Bring the stack up, or whatever of it is down, and return its state once it serves.

    Raises:
        CliError: it cannot be started; the message names the service and quotes its log.
    """
    config = folder.create()
    running = folder.supervised()
    if running:
        _check_same(folder.status(), options)
        if _serves(folder.status()):
            console.print(f"The stack in {folder.path} is already up.")
            return folder.status()
    else:
        _check_machine(folder)
        gateway_port = _gateway_port(folder, options, console)
        ensure_certificates(folder.tls, (*services.ROOMS, "gateway"))
        root = str((options.import_root or folder.models).absolute())
        if not any(s.process and s.process.find() for s in folder.status().services.values()):
            # Nothing recorded lives, so what still carries our mark was left behind.
            processes.stop(processes.left_behind(config.stack_id), grace_seconds=2)
        _start_supervisor(folder, gateway_port, root)
    return _wait_until_up(folder, console)


def down(folder: StackFolder, console: Console) -> bool:
    """Stop everything, keep all data; False if nothing ran."""
    config = folder.config()
    status = folder.status()
    supervisor = status.supervisor.find() if status.supervisor else None
    was_up = supervisor is not None or bool(processes.left_behind(config.stack_id))
    if supervisor is not None:
        supervisor.terminate()
        with _shown(folder, console) as show:
            deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
            while supervisor.is_running() and folder.supervised() and time.monotonic() < deadline:
                show(folder.status())
                time.sleep(POLL_SECONDS)
            show(folder.status())
    # Without a supervisor, or with a stuck one, the marks still tell what is ours.
    if supervisor is not None and folder.supervised():
        processes.stop([supervisor], grace_seconds=1)
    _stop_without_supervisor(folder, config.stack_id)
    return was_up


def status(folder: StackFolder) -> StackStatus:
    """Return the stack's state as it is now: dead processes are seen even if no supervisor lives to note them.

    Raises:
        CliError: there is no stack here.
    """
    folder.config()
    found = folder.status()
    if not folder.supervised():
        for service in found.services.values():
            alive = service.process is not None and service.process.find() is not None
            if not alive and service.state not in {"failed", "stopped"}:
                service.state, service.detail = "stopped", "its process is gone"
        if found.phase in {"ready", "starting", "stopping"}:
            found.phase = "stopped"
            found.error = "the supervisor is gone: `tunewright up` starts a new one"
    return found


def _serves(found: StackStatus) -> bool:
    up_now = found.phase == "ready" and all(service.state == "up" for service in found.services.values())
    return up_now and services.answers(f"{found.url}/readyz")


def _check_same(found: StackStatus, options: UpOptions) -> None:
    wishes = [("--port", options.port, found.gateway_port)]
    if options.import_root is not None:
        wishes.append(("--import-root", str(options.import_root.absolute()), found.import_root))  # type: ignore[arg-type]  # compared only
    for name, wish, fact in wishes:
        if wish is not None and wish != fact:
            remedy = "Stop it first: `tunewright down`, then `tunewright up` again."
            raise CliError(f"the stack already runs with {name} {fact}, not {wish}", remedy=remedy)


def _check_machine(folder: StackFolder) -> None:
    free = shutil.disk_usage(folder.path).free
    if free < LEAST_FREE_BYTES:
        remedy = "Free some space, or name a folder on another disk: --dir FOLDER."
        raise CliError(f"the disk of {folder.path} is full: {free / 1024**2:.0f} MiB free, 1024 needed", remedy=remedy)
    missing = [room for room in (*services.ROOMS, "gateway") if importlib.util.find_spec(f"tunewright.{room}") is None]
    if missing:
        remedy = "Install them into this environment: `make env`, or pip install --no-deps -e services/NAME for each."
        raise CliError(f"services are not installed here: {', '.join(missing)}", remedy=remedy)
    services.weed_program()


def _gateway_port(folder: StackFolder, options: UpOptions, console: Console) -> int:
    former = folder.status()
    gateway = former.services.get("gateway")
    if gateway and gateway.process and gateway.process.find():
        return former.gateway_port  # still running, to be adopted
    wanted = options.port or DEFAULT_PORT
    if processes.port_is_free(wanted):
        return wanted
    holder = processes.port_holder(wanted)
    if options.port is not None:
        remedy = "Name a free one, or leave --port out and one is picked."
        raise CliError(f"port {wanted} is taken by {holder}", remedy=remedy)
    picked = processes.free_ports(1)[0]
    console.print(f"[yellow]Port {wanted} is taken by {holder}; the gateway listens on {picked} instead.[/]")
    return picked


def _start_supervisor(folder: StackFolder, gateway_port: int, import_root: str) -> None:
    previous = folder.status()
    previous.phase, previous.error = "starting", ""
    folder.write_status(previous)
    command = [sys.executable, "-m", "tunewright.cli.stack", str(folder.path), str(gateway_port), import_root]
    child = processes.spawn(
        command, environment=services.inherited(), log=folder.log("supervisor"), directory=folder.path
    )
    deadline = time.monotonic() + 30
    while not folder.supervised() or folder.status().supervisor is None:
        if child.poll() or time.monotonic() > deadline:
            lines = processes.last_lines(folder.log("supervisor"))
            raise CliError("the supervisor does not start", lines=lines, remedy=f"Log: {folder.log('supervisor')}")
        time.sleep(POLL_SECONDS / 2)


def _wait_until_up(folder: StackFolder, console: Console) -> StackStatus:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    with _shown(folder, console) as show:
        while True:
            alive = folder.supervised()
            found = folder.status()
            show(found)
            if alive and _serves(found):
                return found
            if not alive or found.phase in {"failed", "stopped"}:
                raise _start_failed(folder, folder.status())
            if time.monotonic() > deadline:
                raise _start_timed_out(folder, found)
            time.sleep(POLL_SECONDS)


def _start_failed(folder: StackFolder, found: StackStatus) -> CliError:
    failed = [name for name, service in found.services.items() if service.state == "failed"]
    name = failed[0] if failed else "supervisor"
    message = found.error or "the supervisor ended"
    remedy = f"The whole log: {folder.log(name)}. Everything that had started was stopped again."
    return CliError(message, lines=processes.last_lines(folder.log(name)), remedy=remedy)


def _start_timed_out(folder: StackFolder, found: StackStatus) -> CliError:
    late = [name for name, service in found.services.items() if service.state != "up"] or ["gateway"]
    message = f"not ready after {START_TIMEOUT_SECONDS:.0f} s: {', '.join(late)}"
    remedy = "It goes on starting: see `tunewright status`; stop it with `tunewright down`."
    lines = services.not_ready_parts(found.url) or processes.last_lines(folder.log(late[0]))
    return CliError(message, lines=lines, remedy=remedy)


def _stop_without_supervisor(folder: StackFolder, stack_id: str) -> None:
    recorded = folder.status()
    everything = processes.left_behind(stack_id)
    family = processes.with_descendants(everything)
    store_mark = recorded.services.get("store", ServiceStatus()).process
    store = [process for process in everything if store_mark and process.pid == store_mark.pid]
    processes.stop([p for p in everything if p not in store], grace_seconds=30)
    orphans = [process for process in family if process.is_running() and process not in store]
    processes.stop([*store, *orphans, *processes.left_behind(stack_id)], grace_seconds=2)
    if recorded.phase != "failed":
        recorded.phase, recorded.error = "stopped", ""
        for service in recorded.services.values():
            service.state, service.detail = "stopped", ""
        folder.write_status(recorded)


class _Lines:
    """Says in plain lines what changes, where nobody watches a terminal."""

    def __init__(self, console: Console, before: StackStatus) -> None:
        self._console = console
        self._last = {name: _words(name, service) for name, service in before.services.items()}

    def __call__(self, found: StackStatus) -> None:
        for name, service in found.services.items():
            words = _words(name, service)
            if self._last.get(name) != words and service.state != "waiting":
                self._console.print(words, markup=False)
            self._last[name] = words


def _words(name: str, service: ServiceStatus) -> str:
    return f"{name}: {service.state}{' - ' + service.detail if service.detail else ''}"


@contextmanager
def _shown(folder: StackFolder, console: Console) -> Iterator["_Lines | _Table"]:
    if not console.is_terminal:
        yield _Lines(console, folder.status())
        return
    with Live(service_table(folder.status()), console=console, refresh_per_second=10) as live:
        yield _Table(live)


class _Table:
    """Draws the table of services anew."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __call__(self, found: StackStatus) -> None:
        self._live.update(service_table(found))
