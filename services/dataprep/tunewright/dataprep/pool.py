"""Runs one function over tasks, here or in forked worker processes; results come in the order of the tasks.

Forked, so that the workers have what the stage has loaded and compiled, and the function's context is never pickled.
Tasks wait in a window of a few a worker, so that a generator of tasks is read no faster than it is worked off. Workers
die with the stage, however it ends. Knows nothing of what is worked on.
"""

import ctypes
import gc
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

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
    """Runs the function in worker processes.

    Args:
        function: called in the workers; whatever it refers to is theirs by the fork.
        workers: how many, 1 or more.
    """

    def __init__(self, function: Callable[[TaskT], ResultT], workers: int) -> None:
        self._workers = workers
        self._before = set(multiprocessing.active_children())
        self._executor = ProcessPoolExecutor(
            workers, multiprocessing.get_context("fork"), initializer=_start, initargs=(function, os.getpid())
        )

    def ordered(self, tasks: Iterable[TaskT], check: Check) -> Iterator[ResultT]:
        """Yield the result of each task, in the order of the tasks.

        Raises:
            OutOfResources: a worker was killed, most often for want of memory.
        """
        waiting: deque[Future[Any]] = deque()
        source = iter(tasks)
        try:
            while True:
                while len(waiting) < _WINDOW * self._workers + 1 and (task := next(source, _END)) is not _END:
                    waiting.append(self._executor.submit(_call, task))
                if not waiting:
                    return
                yield _result(waiting[0], check)
                waiting.popleft()
        except BrokenProcessPool as error:
            raise OutOfResources(
                "a worker process of data preparation was killed, most often because memory ran out",
                remedy="Give the service more memory, or let fewer processes work.",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the workers; at once if the work ended by an error."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - self._before:
            if kind is not None:
                process.kill()
            process.join()


_END = object()
_function: Callable[[Any], Any] | None = None


def _start(function: Callable[[Any], Any], parent: int) -> None:
    global _function  # noqa: PLW0603 - a worker has one function for life, handed over by the fork
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the stage too, which ends its workers
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    _function = function
    gc.freeze()  # what the stage has loaded is never garbage; looking through it would copy its pages
    gc.disable()  # rows hold one another in no circles; what does (an exception) goes after each task


def _call(task: object) -> object:
    if _function is None:
        raise RuntimeError("the worker was not started by Forked")
    result = _function(task)
    gc.collect()
    return result


def _result(future: "Future[ResultT]", check: Check) -> ResultT:
    while True:
        check()
        try:
            return future.result(timeout=_SECONDS)
        except TimeoutError:
            if future.done():
                raise


def processors() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0))
