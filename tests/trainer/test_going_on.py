"""Stages: a run goes on from an earlier adapter, that very one; DPO then holds to what it was, not to the base."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.trainer.conftest import TINY_MODEL, Trained, letters, set_up, train, write_dataset
from tests.trainer.test_resume import content, go, losses
from tunewright.chassis.errors import InvalidData, InvalidSpec
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.start import check_start

PAIRS: list[Any] = [
    {"messages": row[:1], "chosen": row[1]["content"], "rejected": "no"} for row in letters(7)
]  # fmt: skip
FIRST: dict[str, Any] = {"max_steps": 12, "eval_steps": 4, "gradient_accumulation_steps": 1, "learning_rate": 2e-2}
DPO: dict[str, Any] = {"objective": "dpo", "learning_rate": 1e-3, "gradient_accumulation_steps": 1, "eval_steps": 2}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A supervised stage, on a base in NF4: there TRL rounds adapters, which must not reach the next stage."""
    folder = tmp_path_factory.mktemp("first")
    dataset = write_dataset(folder / "dataset", letters(7), letters(7))
    return train(folder, dataset, modules_to_save=["norm"], **FIRST)


def test_the_second_stage_begins_with_the_first_s_adapter_to_the_bit(first: Trained, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(7), letters(7))
    method = first.manifest.spec["method"]
    shape = {"method": method, "modules_to_save": ["norm"]}
    second = train(tmp_path, dataset, adapter=first.output, max_steps=1, learning_rate=1e-9, **shape)
    assert second.manifest.metrics["first_eval_loss"] == first.manifest.metrics["best_eval_loss"]
    before, after = (load_file(run.output / "adapter_model.safetensors") for run in (first, second))
    assert before.keys() == after.keys()
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 1e-7


def test_dpo_after_sft_holds_to_the_sft_s_result_and_not_to_the_base(first: Trained, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", PAIRS, PAIRS[:4])
    method = first.manifest.spec["method"]
    shape = {"method": method, "modules_to_save": ["norm"]}
    second = train(tmp_path / "on", dataset, adapter=first.output, max_steps=4, **shape, **DPO)
    # A policy that says what its reference says gives ln 2 for every pair. Held to the base, this one would not.
    assert second.manifest.metrics["first_eval_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert second.manifest.metrics["best_eval_loss"] < second.manifest.metrics["first_eval_loss"]

    trainer, _ = set_up(tmp_path / "held", dataset, **shape, **DPO)
    trainer.model.load_adapter(str(first.output), "default")
    assert abs(trainer.evaluate()["eval_loss"] - math.log(2)) > 0.1


def test_a_dpo_stage_that_is_killed_goes_on_with_the_same_reference(first: Trained, tmp_path: Path) -> None:
    shape = {"method": first.manifest.spec["method"], "modules_to_save": ["norm"]}
    spec = {**DPO, **shape, "max_steps": 6, "save_steps": 2}
    for name in ("whole", "killed"):
        write_dataset(tmp_path / name / "dataset", PAIRS, PAIRS[:4])
        shutil.copytree(first.output, tmp_path / name / "adapter")
        (tmp_path / name / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    assert go(tmp_path / "whole")[0] == 0
    assert go(tmp_path / "killed", "checkpoint", 4)[0] == -signal.SIGKILL
    status, said = go(tmp_path / "killed")
    assert status == 0
    assert "resume" in said["events"]
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_checkpoints_of_another_start_are_not_gone_on_from(first: Trained, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(7), letters(7))
    shape = {"method": first.manifest.spec["method"], "modules_to_save": ["norm"]}
    train(tmp_path / "fresh", dataset, **shape)
    shutil.rmtree(tmp_path / "fresh" / "output")
    told = train(tmp_path / "fresh", dataset, adapter=first.output, **shape).report
    assert told.of_type("resume") == []
    assert len(told.of_type("checkpoint_passed_over")) == 2


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"lora_r": 8}, "lora_r"),
        ({"use_dora": True}, "use_dora"),
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"method": "lora"}, "method"),
        ({"method": "full"}, "method"),
        ({"search": {"trials": 2, "lora_r": [8, 16]}}, "search.lora_r"),
    ],
)
def test_another_shape_is_refused_by_its_key(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_start(TrainingSpec.from_mapping(values), TrainingSpec().canonical())
    assert caught.value.violations[0].field == field
    assert "merge the adapter" in caught.value.remedy


def test_without_a_manifest_the_tensors_tell_that_the_shape_is_another(first: Trained, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", letters(7))
    method = first.manifest.spec["method"]
    with pytest.raises(InvalidData, match="other tensors than this run's, such as base_model"):
        train(tmp_path, dataset, TINY_MODEL, adapter=first.output, method=method, lora_r=4)
