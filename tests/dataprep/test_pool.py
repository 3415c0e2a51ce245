"""The worker processes: order, back-pressure, errors with their place, and ends of every kind; nothing is left over."""

import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.dataprep.preparation import Recorder, digests, pair, to_jsonl
from tunewright.chassis.errors import Interrupted, InvalidData, OutOfResources, Violation
from tunewright.dataprep.pool import Forked
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.stage import run

LONG = 3600
ROWS = [pair(f"question {n}", " ".join(f"{n * 31 + k}x{k}" for k in range(50))) for n in range(2_000)]

_STAGE = """
import sys
from pathlib import Path
from tests.dataprep.preparation import Recorder
from tunewright.dataprep import mapping, pool, stage
from tunewright.dataprep.spec import DataprepSpec
def slow(block, job):
    import time
    print("mapping", flush=True)
    time.sleep(3600)
stage.map_block, stage.SMALL_BYTES = slow, 0
stage.run(DataprepSpec(), {"upload_000": Path(sys.argv[1])}, Path(sys.argv[2]), Recorder(runtime={"workers": 2}))
"""


class Stopping(Recorder):
    """A reporter whose user wants to stop once `when` is true."""

    def __init__(self, when: Callable[[], bool], workers: int = 2) -> None:
        super().__init__(runtime={"workers": workers})
        self._when = when

    def raise_if_stopped(self) -> None:
        self.stop = self.stop or self._when()
        super().raise_if_stopped()


def nothing() -> None:
    """Nobody wants to stop."""


_others: set[int] = set()
"""Processes from before a test: servers that the tests of a session share."""


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)} - _others


def at_once_or_late(task: int) -> int:
    time.sleep(0.2 if task % 3 == 0 else 0)
    return task * task


def same(task: int) -> int:
    return task


def refuse(task: int) -> int:
    if task == 5:
        raise InvalidData("raw.jsonl:17 is no row", remedy="Mend it.", violations=[Violation("raw.jsonl:17", "none")])
    return task


def kill_itself(task: int) -> int:
    if task == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def sleep_long(task: int) -> int:
    time.sleep(LONG)
    return task


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upload")
    (folder / "raw.jsonl").write_bytes(to_jsonl(ROWS))
    return folder


@pytest.fixture(autouse=True)
def others() -> None:
    """What runs already is nobody's leftover."""
    _others.clear()
    _others.update(children())


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own even for small inputs, about 12 blocks."""
    monkeypatch.setattr("tunewright.dataprep.stage.SMALL_BYTES", 0)
    monkeypatch.setattr("tunewright.dataprep.stage.BLOCK_BYTES", 64 << 10)


def test_results_come_in_the_order_of_the_tasks_whichever_is_done_first() -> None:
    with Forked(at_once_or_late, 3) as workers:
        assert list(workers.ordered(range(20), nothing)) == [n * n for n in range(20)]
    assert children() == set()


def test_tasks_are_read_no_further_than_a_few_a_worker_ahead() -> None:
    read: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    with Forked(same, 2) as workers:
        for done, _ in enumerate(workers.ordered(tasks(), nothing)):
            assert len(read) <= done + 1 + 2 * 2 + 1
    assert len(read) == 100


def test_an_error_in_a_worker_reaches_the_caller_with_its_place_and_remedy() -> None:
    with pytest.raises(InvalidData, match=r"raw\.jsonl:17 is no row") as caught, Forked(refuse, 2) as workers:
        list(workers.ordered(range(20), nothing))
    assert caught.value.remedy == "Mend it."
    assert caught.value.violations == (Violation("raw.jsonl:17", "none"),)
    assert children() == set()


def test_a_killed_worker_is_told_as_want_of_memory_and_takes_the_others_with_it() -> None:
    done: list[int] = []
    with pytest.raises(OutOfResources, match="killed") as caught, Forked(kill_itself, 2) as workers:
        done.extend(workers.ordered(range(20), nothing))
    assert "fewer processes" in caught.value.remedy
    assert done == list(range(len(done)))
    assert children() == set()


def answer_at_length(_: int) -> bytes:
    return b"x" * (32 << 20)


def test_a_worker_killed_in_the_middle_of_its_answer_holds_nobody_up() -> None:
    def kill_one() -> None:
        time.sleep(1)  # by now the pipe is full and the worker waits with the rest
        os.kill(min(children()), signal.SIGKILL)

    with pytest.raises(OutOfResources, match="killed"), Forked(answer_at_length, 2) as workers:
        list(workers.ordered(range(20), kill_one))
    assert children() == set()


def return_what_cannot_travel(_: int) -> object:
    return lambda: None


def test_a_result_that_cannot_leave_the_worker_is_an_error_and_no_hang() -> None:
    with pytest.raises(TypeError, match="cannot leave it"), Forked(return_what_cannot_travel, 2) as workers:
        list(workers.ordered(range(20), nothing))


def test_a_wish_to_stop_is_heard_while_every_worker_is_busy() -> None:
    reporter = Stopping(lambda: bool(children()))
    with pytest.raises(Interrupted), Forked(sleep_long, 2) as workers:
        list(workers.ordered(range(20), reporter.raise_if_stopped))
    assert children() == set()


@pytest.mark.parametrize(
    ("phase", "told"),
    [("map", lambda folder: any((folder / ".scratch").glob("*1.rows"))),
     ("reduce", lambda _: any(frame.function == "decide" for frame in inspect.stack(0))),
     ("write", lambda folder: any(path.stat().st_size for path in (folder / ".scratch").glob("train.jsonl")))],
)  # fmt: skip
def test_a_stop_in_any_phase_leaves_no_file_and_no_process(
    phase: str, told: Callable[[Path], bool], upload: Path, tmp_path: Path
) -> None:
    reporter = Stopping(lambda: told(tmp_path))
    with pytest.raises(Interrupted):
        run(DataprepSpec(), {"upload_000": upload}, tmp_path, reporter)
    assert reporter.stop, phase
    assert list(tmp_path.iterdir()) == []
    assert children() == set()


def test_a_worker_killed_in_the_middle_fails_the_run_and_leaves_nothing_and_the_next_run_is_whole(
    upload: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one() -> bool:
        alive = children()
        if alive and not killed and any((tmp_path / ".scratch").glob("*.rows")):
            killed.append(min(alive))
            os.kill(killed[0], signal.SIGKILL)
        return False

    with pytest.raises(OutOfResources, match="worker process") as caught:
        run(DataprepSpec(), {"upload_000": upload}, tmp_path, Stopping(kill_one))
    assert killed
    assert "more memory" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []
    assert children() == set()


def test_a_stage_killed_with_9_takes_its_workers_along_and_the_next_run_clears_its_scratch(
    upload: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    stage = subprocess.Popen([sys.executable, "-c", _STAGE, upload, output], stdout=subprocess.PIPE)
    assert stage.stdout is not None
    assert stage.stdout.readline() == b"mapping\n"
    workers = psutil.Process(stage.pid).children()
    assert len(workers) == 2
    stage.kill()
    stage.wait()
    stage.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []
    assert [path.name for path in output.iterdir()] == [".scratch"]
    (output / ".scratch" / "00000000.rows").write_bytes(b"half a row")
    run(DataprepSpec(), {"upload_000": upload}, output, Recorder(runtime={"workers": 2}))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    run(DataprepSpec(), {"upload_000": upload}, fresh, Recorder(runtime={"workers": 1}))
    assert digests(output) == digests(fresh)
    assert sorted(path.name for path in output.iterdir()) == sorted(digests(fresh))


def test_a_file_that_breaks_in_the_middle_is_named_by_the_worker_that_met_it(tmp_path: Path) -> None:
    rows = [*ROWS, '{"instruction": "q", "output": 3}']
    folder = tmp_path / "upload"
    folder.mkdir()
    (folder / "raw.jsonl").write_bytes(to_jsonl(rows) + b"{broken\n" * 900)
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(InvalidData) as caught:
        run(DataprepSpec(), {"upload_000": folder}, output, Recorder(runtime={"workers": 2}))
    assert caught.value.violations[0].field == "raw.jsonl:2001:output"
    assert caught.value.violations[1].field == "raw.jsonl:2002"
    assert list(output.iterdir()) == []
    assert children() == set()


def test_progress_is_told_while_workers_map(upload: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.dataprep.pace._SECONDS", 0.0)
    reporter = Recorder(runtime={"workers": 2})
    run(DataprepSpec(), {"upload_000": upload}, tmp_path, reporter)
    steps = [step for step, _ in reporter.steps]
    assert steps == sorted(set(steps[:-1])) + steps[-1:]
    assert len(steps) >= 10
    assert reporter.steps[-1] == (len(ROWS), len(ROWS))
