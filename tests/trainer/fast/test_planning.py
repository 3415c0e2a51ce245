"""The plan fits the memory, uses it, and says what it does; what the fast path does not know takes the plain one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import letters, set_up, write_dataset
from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import OutOfResources
from tunewright.trainer.device import Device
from tunewright.trainer.fast.passes import Keep, Sizes, plan_within, speed_of
from tunewright.trainer.fast.planning import fast_path
from tunewright.trainer.spec import TrainingSpec

# Bytes a token and layer of a 7B shape: 28 layers of width 3584 with MLPs of 18944.
SIZES = Sizes({Keep.INPUT: 7_800, Keep.ATTENTION: 32_000, Keep.ALL: 108_000, Keep.HOST: 640}, 260_000, 21_500)
LAYERS = 28


def test_more_memory_never_makes_a_slower_plan_and_every_plan_fits() -> None:
    speeds = []
    for gigabytes in (1.2, 2, 3, 5, 8, 12, 16, 24, 40, 80):
        plan = plan_within(SIZES, LAYERS, gigabytes * 1e9, 512, 32768, keep_all=False)
        assert SIZES.of_pass(plan.tokens, plan.keeps) <= gigabytes * 1e9
        speeds.append(speed_of(plan))
    assert speeds == sorted(speeds)
    assert plan.keeps == (Keep.ALL,) * LAYERS
    assert plan.tokens == 16384


def test_a_plan_is_never_smaller_than_the_longest_row_nor_larger_than_a_step() -> None:
    assert plan_within(SIZES, LAYERS, 0, 2048, 4096, keep_all=False).tokens == 2048
    assert plan_within(SIZES, LAYERS, 80e9, 2048, 4096, keep_all=False).tokens == 4096


def test_nothing_is_computed_twice_where_that_was_asked_for() -> None:
    plan = plan_within(SIZES, LAYERS, 8e9, 512, 32768, keep_all=True)
    assert set(plan.keeps) == {Keep.ALL}
    assert SIZES.of_pass(plan.tokens, plan.keeps) <= 8e9


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"method": "lora"}, "method is lora, it knows qlora"),
        ({"use_dora": True}, "it knows no DoRA"),
        ({"modules_to_save": ["norm"]}, "modules are trained as a whole (modules_to_save)"),
    ],
)
def test_what_it_does_not_know_takes_the_plain_path_and_says_so(
    tmp_path: Path, values: dict[str, Any], reason: str
) -> None:
    trainer, _ = set_up(tmp_path, write_dataset(tmp_path / "d", letters(4)), fast_path="auto", **values)
    assert trainer.fast is None
    (event,) = trainer.report.of_type("fast_path")
    assert (event["fast"], event["reason"]) == (False, reason)


def test_on_a_cpu_it_is_taken_when_asked_for_and_can_be_turned_off(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", letters(4))
    trainer, _ = set_up(tmp_path, dataset, per_device_train_batch_size=2, gradient_accumulation_steps=2, fast_path="on")
    assert trainer.fast is not None
    (event,) = trainer.report.of_type("fast_path")
    assert event["fast"]
    assert trainer.args.per_device_train_batch_size == 4
    trainer, _ = set_up(tmp_path, dataset, fast_path="auto")
    assert (trainer.fast is not None) is (trainer.args.device.type == "cuda")
    trainer, _ = set_up(tmp_path, dataset, fast_path="off")
    assert trainer.fast is None
    assert trainer.report.of_type("fast_path") == []


def test_a_whole_model_has_no_base_to_ask_and_is_left_to_the_plain_path(tmp_path: Path) -> None:
    # A whole model is no PeftModel, and other decoders have no `model.norm`: neither may be asked for on a GPU.
    spec = TrainingSpec.from_mapping({"method": "full"})
    report = Recorder(tmp_path / "checkpoints")
    device = Device("cuda", "a GPU", torch.bfloat16)
    with pytest.raises(OutOfResources, match="not for this run: method is full"):
        fast_path(torch.nn.Linear(2, 2), spec, device, 8, report)
    plain = torch.nn.Linear(2, 2)
    next(iter(plain.parameters())).__class__ = type("OnGpu", (torch.nn.Parameter,), {"is_cuda": True})
    assert fast_path(plain, spec, device, 8, report) is None
    assert report.of_type("fast_path")[0]["reason"] == "method is full, it knows qlora"
