"""Ranks forked from a process that has the libraries imported already: seven seconds less for each of them.

What happens in one of them is planted by its own words: `plan` is rank → [what, step]. `kill` is kill -9 before that
step, once; `nan` spoils a gradient in it, once; `memory` raises what an allocator raises, once; `join`
keeps it from joining the others, once; `freeze` stops it, once, and leaves it alive.
"""

import json
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tunewright.trainer import adapters
from tunewright.trainer.loop import Loop
from tunewright.trainer.ranks import group, local, worker

PROCESSES: Any = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
PROCESSES.set_forkserver_preload(["tests.trainer.ranks.forked", "tunewright.trainer.stage"])
Plan = dict[int, tuple[str, int]]


class _Lead:
    """What a leash is to a real process."""

    def __init__(self, process: Any) -> None:  # noqa: ANN401 - of a context
        self._process = process

    def close(self) -> None:
        self._process.kill()


@dataclass
class Forked:
    """What `LocalRanks` needs of a process."""

    process: Any

    @property
    def stdin(self) -> _Lead:
        return _Lead(self.process)

    def poll(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> None:
        self.process.join()


def fork(monkeypatch: pytest.MonkeyPatch, plan: Plan | None = None) -> None:
    """Have ranks forked, in which happens what is planned."""

    def start_one(self: local.LocalRanks, rank: int, task: Path) -> Any:  # noqa: ANN401 - stands for a Popen
        environment = local.environment_of(rank, self._size, self._task)
        messages = task.with_name(f"messages-{rank}.jsonl")
        happens = (plan or {}).get(rank)
        process = PROCESSES.Process(target=_rank, args=(task, messages, environment, happens))
        process.start()
        return Forked(process)

    monkeypatch.setattr(local.LocalRanks, "_start_one", start_one)


def _rank(task: Path, messages: Path, environment: dict[str, str], happens: tuple[str, int] | None) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if happens is not None:
        _plant(*happens, Path(json.loads(task.read_bytes())["checkpoints"]))
    with messages.open("a", encoding="utf-8") as file:
        worker.main(task, file)
    os._exit(0)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(1)


def _no_route(*_: object, **__: object) -> Any:  # noqa: ANN401 - it returns nothing
    raise RuntimeError("[c10d] no route to the meeting point\nframe #0: …")


def _plant(what: str, step: int, checkpoints: Path) -> None:
    done = checkpoints / ".planted"
    if what == "join" and not done.exists():
        done.touch()
        group.join = _no_route
        return
    begin = Loop.begin_step

    def planted(self: Loop) -> None:
        begin(self)
        if self.state.global_step + 1 != step or done.exists():
            return
        done.touch()
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        parameter: Any = next(value for name, value in adapters.trainable(self.model).items() if "lora_B" in name)
        parameter.register_hook(lambda gradient: gradient * float("nan"))

    Loop.begin_step = planted  # type: ignore[method-assign] # in a process of its own
