"""Two workers of a local Ray cluster train as one process does, and the loss of one is survived."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.ray_cluster import started
from tests.trainer.conftest import TINY_MODEL, letters, train, write_dataset
from tests.trainer.ranks.test_local import SPEC, assert_alike
from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import InvalidSpec, Unavailable
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stage import run

# Ray Train asks Ray Data for settings that Ray Data has given other names.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with two processors."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }.items():
            patch.setenv(name, value)
        node = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
        found = started(node)
        patch.setenv("TUNEWRIGHT_RAY_ADDRESS", found.address)
        yield found
        found.shutdown()  # type: ignore[no-untyped-call]


def workers() -> list[psutil.Process]:
    """Return the living processes of Ray Train's workers."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # some end while one looks
            if any("RayTrainWorker" in part for part in process.cmdline()):
                found.append(process)
    return found


@pytest.mark.heavy
def test_a_worker_that_is_killed_is_survived_and_the_adapter_is_that_of_one_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    del cluster
    dataset = write_dataset(tmp_path / "dataset", letters(7), letters(5, shift=1))
    alone = train(tmp_path / "alone", dataset, processes=1, **SPEC)
    killed: list[int] = []

    def kill_one(step: int) -> None:
        if step == 3 and not killed:
            victim = workers()[0]
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)

    report = Recorder(tmp_path / "checkpoints")
    report.on_progress = kill_one
    result = train(tmp_path / "ray", dataset, report=report, launcher="ray", processes=2, **SPEC)
    assert killed
    assert report.of_type("restart")[0]["restarts"] == 1
    assert report.of_type("resume")[-1]["step"] in report.saved
    assert_alike(result, alone, figures=False)
    _, alive = psutil.wait_procs(workers(), timeout=20)
    assert not alive
    assert not list(report.checkpoints.glob(".ray-*"))


def test_more_workers_than_the_cluster_has_room_for_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    del cluster
    dataset = write_dataset(tmp_path / "dataset", letters(8))
    with pytest.raises(InvalidSpec, match=r"processes: 8 processes are more than the Ray cluster has room for \(2\)"):
        train(tmp_path / "ray", dataset, launcher="ray", processes=8, **SPEC)


@pytest.mark.parametrize(
    ("address", "error", "text"),
    [("", InvalidSpec, "this service was told of no cluster"), ("127.0.0.1:1", Unavailable, "cannot be joined")],
)
def test_a_cluster_that_is_not_there_is_named_before_anything_is_loaded(
    address: str, error: type[Exception], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_RAY_ADDRESS", address)
    spec: dict[str, Any] = {"launcher": "ray"}
    with pytest.raises(error, match=text):
        run(
            TrainingSpec.from_mapping(spec),
            {"dataset": tmp_path, "base": TINY_MODEL},
            tmp_path,
            Recorder(tmp_path / "checkpoints"),
        )
