"""Runs one function over tasks, here or in forked worker processes; results come in the order of the tasks.

Forked, so that the workers have what the stage has loaded and compiled, and the function's context is never pickled.
Tasks wait in a window of a few a worker, so that a generator of tasks is read no faster than it is worked off. Workers
die with the stage, however it ends. Knows nothing of what is worked on.

Each worker has a pipe of its own. `concurrent.futures` lets all workers share one, with a lock: a worker killed while
it writes keeps both, and the others and the stage wait for ever (as a test of this room once did).
"""

import ctypes
import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from tunewright.chassis.errors import OutOfResources

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")
Task_contra = TypeVar("Task_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)
_WINDOW = 2
"""Tasks under way or done and waiting, for each worker."""
_SECONDS = 0.2
"""Between two looks at the wish to stop."""
_PR_SET_PDEATHSIG = 1

Check = Callable[[], None]
"""Called often; raises to end the work."""


class Workers(Protocol[Task_contra, Result_co]):
    """What runs the function."""

    def ordered(self, tasks: Iterable[Task_contra], check: Check) -> Iterator[Result_co]:
        """Yield the result of each task, in the order of the tasks."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Here(Generic[TaskT, ResultT]):
    """Runs the function in this process: small inputs are done before another process has started."""

    def __init__(self, function: Callable[[TaskT], ResultT]) -> None:
        self._function = function

    def ordered(self, tasks: Iterable[TaskT], check: Check) -> Iterator[ResultT]:
        """Yield the result of each task."""
        for task in tasks:
            check()
            yield self._function(task)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave nothing behind."""


class Forked(Generic[TaskT, ResultT]):
    """Runs the function in worker processes, forked when the context begins.

    Args:
        function: called in the workers; whatever it refers to is theirs by the fork.
        workers: how many, 1 or more.
    """

    def __init__(self, function: Callable[[TaskT], ResultT], workers: int) -> None:
        self._function = function
        self._count = workers
        self._workers: dict[Connection, ForkProcess] = {}

    def ordered(self, tasks: Iterable[TaskT], check: Check) -> Iterator[ResultT]:
        """Yield the result of each task, in the order of the tasks.

        Raises:
            OutOfResources: a worker was killed, most often for want of memory.
        """
        source = iter(tasks)
        idle, busy, done = list(self._workers), dict[Connection, int](), dict[int, _Outcome]()
        started = given = 0
        while True:
            while idle and started - given <= _WINDOW * self._count and (task := next(source, _END)) is not _END:
                _send(idle[-1], task)
                busy[idle.pop()] = started
                started += 1
            if given in done:
                outcome = done.pop(given)
                if outcome.error is not None:
                    raise outcome.error
                yield outcome.result
                given += 1
            elif busy:
                check()
                ready = wait(list(busy), _SECONDS)
                for connection in [one for one in busy if one in ready]:
                    done[busy.pop(connection)] = _receive(connection)
                    idle.append(connection)
            else:
                return

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("fork")
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(self._function, theirs, os.getpid()), daemon=True)
            process.start()
            theirs.close()  # before the next fork: held by the worker alone, its death ends the pipe
            self._workers[ours] = process
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the workers at once: they have nothing left to do, or nobody waits for it."""
        for process in self._workers.values():
            process.kill()
        for connection, process in self._workers.items():
            process.join()
            connection.close()
        self._workers.clear()


_END = object()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a worker made of a task."""

    result: Any = None
    error: BaseException | None = None


def _send(worker: Connection, task: object) -> None:
    try:
        worker.send(task)
    except OSError as error:
        raise _killed() from error


def _receive(worker: Connection) -> _Outcome:
    try:
        outcome = worker.recv()
    except (EOFError, OSError) as error:
        raise _killed() from error
    return cast("_Outcome", outcome)


def _killed() -> OutOfResources:
    return OutOfResources(
        "a worker process of data preparation was killed, most often because memory ran out",
        remedy="Give the service more memory, or let fewer processes work.",
    )


def _serve(function: Callable[[Any], Any], stage: Connection, parent: int) -> None:
    """The life of a worker: a task in, its outcome out, until it is killed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the stage too, which ends its workers
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    gc.freeze()  # what the stage has loaded is never garbage; looking through it would copy its pages
    gc.disable()  # rows hold one another in no circles; what does (an exception) goes after each task
    while True:
        outcome = _work(function, stage.recv())
        try:
            stage.send(outcome)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - it cannot be written as bytes, so that nothing was sent yet
            stage.send(_Outcome(error=TypeError(f"what the worker made of a task cannot leave it: {error}")))
        del outcome
        gc.collect()


def _work(function: Callable[[Any], Any], task: object) -> _Outcome:
    try:
        return _Outcome(result=function(task))
    except Exception as error:  # noqa: BLE001 - it is raised again in the stage
        error.add_note("".join(traceback.format_exception(error)))  # a traceback itself does not travel
        return _Outcome(error=error)


def processors() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0))
