"""How many processes a run has, and what does not go together with them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import InvalidSpec
from tunewright.trainer.ranks import group, launching
from tunewright.trainer.spec import TrainingSpec


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def choose(folder: Path, **values: Any) -> tuple[int, list[dict[str, Any]]]:  # noqa: ANN401 - any spec value
    report = Recorder(folder)
    return launching.processes_of(TrainingSpec.from_mapping(values), report), report.of_type("processes")


@pytest.mark.usefixtures("four_gpus")
def test_every_gpu_is_used_that_divides_the_effective_batch(tmp_path: Path) -> None:
    assert choose(tmp_path) == (4, [])
    found, told = choose(tmp_path, gradient_accumulation_steps=3)  # 2 × 3 rows
    assert found == 3
    assert (told[0]["processes"], told[0]["gpus"]) == (3, 4)
    assert choose(tmp_path, processes=2) == (2, [])
    assert choose(tmp_path, search={"trials": 2, "lora_r": [4, 8]})[0] == 1


@pytest.mark.usefixtures("four_gpus")
def test_more_processes_than_gpus_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="processes: 8 processes need as many GPUs, this machine has 4"):
        choose(tmp_path, processes=8)


@pytest.mark.skipif(torch.cuda.is_available(), reason="without a GPU")
def test_a_cpu_trains_in_one_process_unless_more_are_asked_for(tmp_path: Path) -> None:
    assert choose(tmp_path) == (1, [])
    assert choose(tmp_path, processes=4) == (4, [])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"search": {"trials": 2, "lora_r": [4, 8]}, "processes": 2}, "a search runs in one process, not in 2"),
        ({"search": {"trials": 2, "lora_r": [4, 8]}, "launcher": "ray"}, "not on a Ray cluster"),
        ({"method": "full", "fsdp": "full_shard"}, "fsdp shards a base that is frozen"),
        ({"use_dora": True, "fsdp": "full_shard"}, "fsdp shards a base that is frozen"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidSpec, match=text):
        TrainingSpec.from_mapping(values)


def test_gradients_are_sent_in_buckets_of_one_type_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_BUCKET_BYTES", 32)
    sizes = [4, 4, 1, 20, 2]
    tensors = [torch.zeros(size) for size in sizes] + [torch.zeros(2, dtype=torch.float64)]
    assert [[len(tensor) for tensor in bucket] for bucket in group._buckets(tensors)] == [[4, 4], [1], [20], [2], [2]]
