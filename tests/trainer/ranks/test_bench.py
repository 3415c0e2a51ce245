"""The benchmark of several GPUs runs where there are none, and finds two processes to agree with one."""

import pytest
import torch

from bench.several_gpus import main
from tests.trainer.ranks.forked import fork


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="two processes need two GPUs, or none"
)
def test_two_processes_agree_with_one_and_speed_and_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fork(monkeypatch)
    found = main(["--steps", "4", "--max-length", "32"])
    one, two = found["runs"]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["efficiency"], one["loss_differs_by"], one["adapter_differs_by"]) == (1, 0, 0)
    assert two["loss_differs_by"] < 1e-3
    assert two["grad_norm_differs_by"] < 1e-2
    assert two["adapter_differs_by"] < 1e-2
    assert min(two["tokens_per_second"], two["memory_bytes"], two["efficiency"]) > 0
