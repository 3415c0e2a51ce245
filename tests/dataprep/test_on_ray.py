"""Data preparation on a Ray cluster of three real nodes: the same bytes as alone, whatever is killed."""

import gzip
import inspect
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet
from ray.cluster_utils import Cluster

from tests.dataprep.preparation import FILES, Recorder, digests, pair, to_jsonl
from tests.ray_cluster import started
from tunewright.artifacts import Manifest
from tunewright.chassis.errors import Interrupted, InvalidData, InvalidSpec, Refused, Unavailable
from tunewright.chassis.spec import job_id
from tunewright.dataprep.blocks import Block
from tunewright.dataprep.kinds import kind_of_files
from tunewright.dataprep.mapping import Job
from tunewright.dataprep.on_ray import tasks
from tunewright.dataprep.on_ray.session import Session
from tunewright.dataprep.readers import Source, blocks, carrying, examine
from tunewright.dataprep.shapes import recognise
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.stage import run

STORE_BYTES = 80 << 20
SYSTEM = {"max_direct_call_object_size": 1000, "health_check_initial_delay_ms": 0, "health_check_period_ms": 300}
"""Results of more than 1,000 bytes lie with the nodes that made them, and are lost with them; soon."""
SETTINGS: dict[str, Any] = {
    "conflicts": {"action": "keep_best"},
    "max_invalid_fraction": 0.5,
    "sources": [{}, {}, {}, {"use": "test"}],
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes with a processor and a small object store each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        found = started(node, _system_config=SYSTEM)
        for _ in range(2):
            found.add_node(wait=True, **node)
        patch.setenv("TUNEWRIGHT_RAY_ADDRESS", found.address)
        yield found
        found.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """JSON Lines, packed CSV and Parquet with duplicates, near-duplicates, conflicts and broken rows; a test set."""

    def row(number: int) -> dict[str, str]:
        source = random.Random(number // 3)  # noqa: S311 - rows, no secrets
        text = " ".join(f"w{source.randrange(3000)}" for _ in range(24))
        if number % 3 == 1:
            text += f" {number}"
        if number % 5 == 0:
            text += "".join(chr(0x4E00 + source.randrange(2000)) for _ in range(12))
        return pair(f"question {number // 3 if number % 4 else number // 30}", text)

    rows = [row(number) for number in range(9_000)]
    folders = {f"upload_{n:03}": tmp_path_factory.mktemp(f"upload{n}") for n in range(4)}
    (folders["upload_000"] / "raw.jsonl").write_bytes(to_jsonl([*rows[:5000], "{broken", {"instruction": 1}]))
    table = "instruction,output\n" + "".join(f'"{r["instruction"]}","{r["output"]}"\n' for r in rows[5000:7000])
    (folders["upload_001"] / "raw.csv.gz").write_bytes(gzip.compress((table + "one,two,three\n").encode()))
    parquet.write_table(pa.Table.from_pylist(rows[7000:]), folders["upload_002"] / "raw.parquet", row_group_size=500)
    (folders["upload_003"] / "test.jsonl").write_bytes(to_jsonl(rows[100:6000:300]))
    return folders


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More blocks than nodes, and no waiting for the news that a node is lost."""
    monkeypatch.setattr("tunewright.dataprep.stage.SMALL_BYTES", 0)
    monkeypatch.setattr("tunewright.dataprep.stage.BLOCK_BYTES", 192 << 10)
    monkeypatch.setattr("tunewright.dataprep.on_ray.session._NODES_SECONDS", 0.0)


@pytest.fixture(scope="module")
def expected(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Manifest]:
    """What this machine alone makes of it."""
    output = tmp_path_factory.mktemp("alone")
    manifest = run(DataprepSpec.from_mapping(SETTINGS), inputs, output, Recorder(runtime={"workers": 1}))
    assert manifest.metrics["dropped"].keys() >= {"duplicate", "near_duplicate", "conflict", "contaminated"}
    return digests(output), manifest


def on_ray(inputs: dict[str, Path], output: Path, report: Recorder) -> Manifest:
    return run(DataprepSpec.from_mapping({**SETTINGS, "launcher": "ray"}), inputs, output, report)


class Killing(Recorder):
    """A reporter that kills, with signal 9, a worker after the first block, a node after some, a node in the reduce."""

    def __init__(self, cluster: Cluster, scratch: Path) -> None:
        super().__init__()
        self.killed: list[str] = []
        self._cluster, self._scratch = cluster, scratch

    def raise_if_stopped(self) -> None:
        written = len(list(self._scratch.glob("*.rows")))
        if not self.killed and written >= 1 and (workers := busy_workers()):
            os.kill(workers[0], signal.SIGKILL)
            self.killed.append("worker")
        elif len(self.killed) == 1 and written >= 4:
            self._lose("node while mapping")
        elif len(self.killed) == 2 and any(frame.function == "decide" for frame in inspect.stack(0)):
            self._lose("node while comparing")

    def _lose(self, name: str) -> None:
        self._cluster.remove_node(self._cluster.worker_nodes.copy().pop(), allow_graceful=False)
        self.killed.append(name)


def busy_workers() -> list[int]:
    """Processes that are at a map task."""
    found = psutil.process_iter(["pid", "cmdline"])
    return [process.pid for process in found if "ray::map_block" in " ".join(process.info["cmdline"] or [])]


@pytest.mark.heavy
def test_three_nodes_give_the_bytes_of_one_machine(
    cluster: Cluster, inputs: dict[str, Path], expected: tuple[dict[str, str], Manifest], tmp_path: Path
) -> None:
    report = Recorder()
    manifest = on_ray(inputs, tmp_path, report)
    assert digests(tmp_path) == expected[0]
    assert manifest == expected[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert report.messages("launched") == ["Works on 3 Ray nodes, at most 3 tasks at once"]
    assert report.messages("node_lost") == []
    assert report.steps[-1] == (manifest.metrics["rows_in"],) * 2
    assert cluster.address


@pytest.mark.heavy
@pytest.mark.usefixtures("cluster")
def test_a_stop_leaves_no_file_and_ends_what_runs_on_the_nodes(inputs: dict[str, Path], tmp_path: Path) -> None:
    class Stopping(Recorder):
        def raise_if_stopped(self) -> None:
            self.stop = self.stop or bool(busy_workers())
            super().raise_if_stopped()

    with pytest.raises(Interrupted):
        on_ray(inputs, tmp_path, Stopping())
    assert list(tmp_path.iterdir()) == []
    for _ in range(100):
        if not busy_workers():
            break
        time.sleep(0.1)
    assert busy_workers() == []


@pytest.mark.heavy
def test_what_a_task_raises_arrives_as_it_was_and_a_node_with_other_code_is_refused(
    cluster: Cluster, inputs: dict[str, Path]
) -> None:
    path = inputs["upload_002"] / "raw.parquet"
    source = Source("raw.parquet", path, path.stat().st_size)
    whole = carrying(next(blocks(source, examine(source))))
    assert whole.data
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    session = Session(cluster.address, 0, Recorder())
    try:
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
        with pytest.raises(Refused, match="another version of data preparation"):
            session.get(session.start(tasks.shingle, [], [], DataprepSpec().duplicates, "0" * 64))
        seen = [recognise(source, "auto", examine(source))]
        job = tasks.packed(Job(DataprepSpec(), [source], seen, kind_of_files([source], seen), path))
        cut = session.put(Block(0, 0, replace(whole, data=whole.data[:200])))
        with pytest.raises(InvalidData, match=r"raw\.parquet is a broken Parquet file") as caught:
            session.get(session.start(tasks.map_block, cut, job, 0, session.version, returns=2))
        assert caught.value.remedy == "Write it again, or upload it again."
    finally:
        session.close()


@pytest.mark.heavy
def test_a_killed_worker_and_two_killed_nodes_change_no_byte(
    cluster: Cluster, inputs: dict[str, Path], expected: tuple[dict[str, str], Manifest], tmp_path: Path
) -> None:
    report = Killing(cluster, tmp_path / ".scratch")
    on_ray(inputs, tmp_path, report)
    assert report.killed == ["worker", "node while mapping", "node while comparing"]
    assert len(report.messages("node_lost")) == 2
    assert digests(tmp_path) == expected[0]


def test_the_launcher_and_the_number_of_workers_are_no_part_of_the_identity() -> None:
    plain, other = DataprepSpec(), DataprepSpec(launcher="ray", workers=7)
    assert (other.launcher, other.workers) == ("ray", 7)
    assert plain.canonical() == other.canonical()
    assert job_id("dataprep", plain, {}) == job_id("dataprep", other, {})


def test_without_a_cluster_the_launcher_is_refused(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNEWRIGHT_RAY_ADDRESS", raising=False)
    with pytest.raises(InvalidSpec, match="told of no cluster") as caught:
        on_ray(inputs, tmp_path, Recorder())
    assert "TUNEWRIGHT_RAY_ADDRESS" in caught.value.remedy
    assert caught.value.violations[0].field == "launcher"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InvalidSpec, match="package ray is not installed") as caught:
        on_ray(inputs, tmp_path, Recorder())
    assert "requirements/ray.txt" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_does_not_answer_is_told_at_once(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TUNEWRIGHT_RAY_ADDRESS", f"127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(Unavailable, match="cannot be joined") as caught:
            on_ray(inputs, tmp_path, Recorder())
    assert "TUNEWRIGHT_RAY_ADDRESS" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []
