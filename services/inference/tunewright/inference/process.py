"""One engine as a process: on a leash, its log kept, its whole tree measured and ended. Knows nothing of vLLM.

The leash (`tunewright.chassis.leash`) kills the engine's process group when this service is gone, even by kill -9.
"""

import contextlib
import logging
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path

import psutil

from tunewright.chassis import leash

_LOG_BYTES = 10 << 20
_LOG_FILES = 3
_TAIL_LINES = 400
_KILL_SECONDS = 10.0


class EngineProcess:
    """A command that runs until it ends, is told to end, or this process is gone.

    Args:
        command: program and arguments.
        environment: all of the process's environment.
        log_file: its output goes here; rotated at 10 MiB, three old ones are kept.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], log_file: Path) -> None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._leash = subprocess.Popen(
            leash.command(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=log_file.parent,
        )
        self._family: dict[int, psutil.Process] = {}
        self._reader = threading.Thread(target=self._keep_log, args=(log_file,), daemon=True, name="engine-log")
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """The command's exit status, 128 + n if signal n ended it, None while it runs."""
        code = self._leash.poll()
        return code if code is None or code >= 0 else 128 - code

    def wait(self, seconds: float) -> int | None:
        """Return the exit status once it ends, None if it still runs after `seconds`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._leash.wait(seconds)
        return self.exit_code

    def log_tail(self, lines: int = _TAIL_LINES) -> list[str]:
        """Return the last lines of its output, at most 400."""
        return list(self._tail)[-lines:]

    def resident_bytes(self) -> int:
        """Return the resident memory of all its processes, shared pages counted in each."""
        return sum(_resident(process) for process in self._look_at_family())

    def terminate(self) -> None:
        """Send SIGTERM to the command, not to its children."""
        with contextlib.suppress(ProcessLookupError):
            self._leash.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all of its processes at once; returns when they are gone."""
        family = self._look_at_family()
        if self._leash.stdin is not None:
            self._leash.stdin.close()  # the leash kills the group
        try:
            self._leash.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._leash.kill()
            self._leash.wait()
        for process in family:  # only if the leash itself was killed before it could do its work
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, _KILL_SECONDS)
        self._reader.join(_KILL_SECONDS)

    def _look_at_family(self) -> list[psutil.Process]:
        # Remembered, because children of a dead parent can no longer be found by it; psutil's handles are safe against
        # reused process ids.
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._leash.pid).children(recursive=True):
                self._family[process.pid] = process
        self._family = {pid: process for pid, process in self._family.items() if process.is_running()}
        return list(self._family.values())

    def _keep_log(self, log_file: Path) -> None:
        handler = RotatingFileHandler(log_file, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES)
        handler.setFormatter(logging.Formatter("%(message)s"))
        output = self._leash.stdout
        assert output is not None  # noqa: S101 - a pipe was asked for
        for raw in output:
            line = raw.decode(errors="replace").rstrip()
            self._tail.append(line)
            handler.emit(logging.LogRecord("engine", logging.INFO, "", 0, line.replace("%", "%%"), None, None))
        handler.close()
        output.close()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
