"""The processes of a run on this machine, seen from the one that started them. Knows no model.

Each is on a leash of its own: none outlives this process, whatever becomes of it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tunewright.chassis import leash
from tunewright.trainer.ranks.group import PATIENCE_SECONDS

WORKER = (sys.executable, "-m", "tunewright.trainer.ranks.worker")


class LocalRanks:
    """Starts `size` processes; each of their lives is one attempt.

    Args:
        size: how many.
        task: what `worker` reads.
    """

    where = "of this machine"

    def __init__(self, size: int, task: dict[str, Any]) -> None:
        self._size = size
        self._task = task
        self._folder = Path(tempfile.mkdtemp(prefix="tunewright-ranks-"))
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._read: list[int] = []

    def start(self) -> None:
        """Start all processes afresh."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        task = self._folder / "task.json"
        task.write_text(json.dumps(self._task), encoding="utf-8")
        self._read = [0] * self._size
        self._ranks = [self._start_one(rank, task) for rank in range(self._size)]

    def messages(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what the processes have said since the last time, with their ranks."""
        return [(rank, json.loads(line)) for rank in range(self._size) for line in self._new_lines(rank)]

    def deaths(self) -> dict[int, str]:
        """Return rank → how it ended, of those that ended by violence."""
        codes = {rank: process.poll() for rank, process in enumerate(self._ranks)}
        return {rank: _how(code) for rank, code in codes.items() if code}

    def ask_to_stop(self) -> None:
        """Wish that all stop at the next point where they can."""
        for process in self._ranks:
            process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all processes; returns when they are gone."""
        for process in self._ranks:
            if process.stdin is not None:
                process.stdin.close()  # lets go of the leash, which takes all of its process group with it
        for process in self._ranks:
            process.wait()
        self._ranks = []

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_one(self, rank: int, task: Path) -> subprocess.Popen[bytes]:
        command = leash.command([*WORKER, str(task), str(self._folder / f"messages-{rank}.jsonl")])
        environment = {**os.environ, **environment_of(rank, self._size, self._task)}
        return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)

    def _new_lines(self, rank: int) -> list[bytes]:
        path = self._folder / f"messages-{rank}.jsonl"
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._read[rank])
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[rank] += len(whole)
        return whole.splitlines()


def environment_of(rank: int, size: int, task: Mapping[str, Any]) -> dict[str, str]:
    """Return what a process must know of itself; nothing of a run on one machine leaves the loopback interface."""
    found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    own = {name: str(value) for name, value in found.items()} | {PATIENCE_SECONDS: str(task["patience_seconds"])}
    own |= {name: os.environ.get(name, loopback) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    # NVLink multicast is off unless asked for: it can put GPUs that others share out of service.
    own["NCCL_NVLS_ENABLE"] = os.environ.get("NCCL_NVLS_ENABLE", "0")
    threads = 8 if task["cuda"] else max(1, (psutil.cpu_count(logical=False) or 1) // size)
    own["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
    return own


def _how(code: int) -> str:
    number = -code if code < 0 else code - 128
    return f"by {signal.Signals(number).name}" if number in set(signal.Signals) else f"with status {code}"
