"""What goes wrong in a run is mended within bounds: real errors where a CPU can raise them, planted ones else."""

import itertools
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.conftest import TINY_MODEL, exchange, letters, set_up, train, write_dataset
from tests.trainer.reporting import Recorder
from tests.trainer.test_resume import go, prepare
from tunewright.chassis.errors import OutOfResources, Refused
from tunewright.trainer import adapters, checkpoints, remedies, troubles
from tunewright.trainer.base import load_tokenizer
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stability import Unstable, is_spike

GENTLE: dict[str, Any] = {"eval_steps": 2, "save_steps": 2, "early_stopping_patience": 0, "lora_dropout": 0.0}


def plant(monkeypatch: pytest.MonkeyPatch, passes: set[int], factor: float = float("nan")) -> None:
    """Multiply the gradient of one adapter by `factor` in these backward passes, counted over all attempts."""
    make, count = adapters.make_trainable, itertools.count(1)

    def planted(model: Any, spec: TrainingSpec) -> Any:  # noqa: ANN401 - PEFT ships no types
        made = make(model, spec)
        parameter: Any = next(value for name, value in adapters.trainable(made).items() if "lora_B" in name)
        parameter.register_hook(lambda gradient: gradient * factor if next(count) in passes else gradient)
        return made

    monkeypatch.setattr(adapters, "make_trainable", planted)


def spoilt_by_one_row(folder: Path) -> Path:
    """Return a base that computes no numbers where the letter Z stands."""
    base = Path(shutil.copytree(TINY_MODEL, folder / "base"))
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    token = load_tokenizer(TINY_MODEL, Recorder(folder / "c")).encode("Z")[0]
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_bytes())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), encoding="utf-8")
    return base


def test_a_step_that_gives_no_numbers_is_rolled_back_at_half_the_rate_and_told_in_both_languages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, {9})  # two passes a step: the fifth step
    dataset = write_dataset(tmp_path / "d", letters(8), letters(8))
    # What is planted hangs on autograd.
    result = train(tmp_path, dataset, max_steps=8, fast_path="off", **GENTLE)
    (remedy,) = result.report.of_type("remedy")
    assert (remedy["row"], remedy["step"], remedy["going_on_after"]) == ("E6", 5, 4)
    assert remedy["settings"] == {"learning_rate": 5e-3, "max_grad_norm": 0.5}
    assert sorted(remedy["rows"]) == [f"train.jsonl:{n}" for n in range(1, 9)]
    (text,) = [message for kind, message, _ in result.report.events if kind == "remedy"]
    for part in (
        "whose gradient is no number",
        "learning_rate 0.005",
        "损失或梯度变成了 NaN",
        "learning_rate 降为 0.005",
    ):
        assert part in text
    rates = {entry["step"]: entry["learning_rate"] for entry in result.report.steps if "loss" in entry}
    assert rates[5] == pytest.approx(rates[4] / 2 * 0.8, rel=0.15)  # half of it, further along the cosine
    metrics = result.manifest.metrics
    assert metrics["steps"] == 8
    assert [taken["action"] for taken in metrics["remedies"]] == ["roll_back"]
    assert all(
        bool(tensor.isfinite().all()) for tensor in load_file(result.output / "adapter_model.safetensors").values()
    )


def test_rows_that_never_give_numbers_end_the_run_after_three_rollbacks_and_are_named(tmp_path: Path) -> None:
    rows = [*letters(7), exchange("say Z", "zzz")]
    report = Recorder(tmp_path / "checkpoints")
    dataset = write_dataset(tmp_path / "d", rows, letters(2))
    settings: dict[str, Any] = {**GENTLE, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "seed": 1}
    with pytest.raises(Refused, match=r"E6: .*the loss is nan in step \d, in the rows train\.jsonl:8$") as caught:
        train(tmp_path / "run", dataset, spoilt_by_one_row(tmp_path), report, max_steps=9, **settings)
    rates = [remedy["settings"]["learning_rate"] for remedy in report.of_type("remedy")]
    assert rates == [5e-3, 2.5e-3, 1.25e-3]
    assert "请检查所列的数据行" in caught.value.remedy
    assert report.of_type("trouble")[0]["row"] == "E6"


def test_a_rate_that_is_far_too_high_ends_within_three_rollbacks_whatever_becomes_of_it(tmp_path: Path) -> None:
    report = Recorder(tmp_path / "checkpoints")
    dataset = write_dataset(tmp_path / "d", letters(8), letters(8))
    wild: dict[str, Any] = {
        "learning_rate": 1.0,
        "lora_alpha": 4096,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1000,
    }
    try:
        result = train(tmp_path / "run", dataset, report=report, max_steps=25, **{**GENTLE, "eval_steps": 5, **wild})
    except Refused as error:
        assert "E6" in error.message  # noqa: PT017 - both ends are right, a loop without end is not
    else:
        assert result.manifest.metrics["steps"] == 25
    assert len(report.of_type("remedy")) <= 3


def test_a_jump_of_the_loss_is_rolled_back_once_and_then_passed_over_with_its_rows_named(
    tmp_path: Path,
) -> None:
    # By step 29 the 119 equal rows are known by heart, and the one that was never seen comes: whatever the rate is.
    spec: dict[str, Any] = {
        **GENTLE,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "save_steps": 5,
    }
    rows = [exchange("A" * 6, "aaaa")] * 119 + [exchange("Q", "\x7f" * 40)]
    result = train(tmp_path, write_dataset(tmp_path / "d", rows), **spec, max_steps=30, seed=20)
    (jump,) = result.report.of_type("remedy")
    assert (jump["row"], jump["step"], jump["going_on_after"]) == ("E6", 29, 25)
    assert "train.jsonl:120" in jump["rows"]
    (passed,) = result.report.of_type("loss_spike")
    assert passed["step"] == 29
    assert "train.jsonl:120" in passed["rows"]
    assert result.manifest.metrics["steps"] == 30


def test_what_is_a_spike() -> None:
    steady = [0.5, 0.6, 0.55, 0.5, 0.52, 0.6, 0.5, 0.58]
    assert is_spike(steady, 2.8)
    assert not is_spike(steady, 2.4)
    assert not is_spike(steady[:7], 100.0)
    assert not is_spike([0.01] * 32, 1.0)


def starved(folder: Path, **values: Any) -> Path:  # noqa: ANN401 - any spec value
    rows = [exchange(chr(65 + n) * 300, "answer " * 20) for n in range(8)]
    write_dataset(folder / "dataset", rows, letters(2))
    spec: dict[str, Any] = {
        "max_steps": 1, "warmup_steps": 0, "max_length": 2048, "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2, "lora_dropout": 0.0, "bnb_4bit_compute_dtype": "float32", "optim": "adamw_torch",
        "save_steps": 1, "gradient_checkpointing": False, "fast_path": "off",
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps({**spec, **values}), encoding="utf-8")
    return folder


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA itself takes address space without end")
def test_a_process_without_enough_memory_takes_fewer_rows_at_a_time_and_keeps_the_effective_batch(
    tmp_path: Path,
) -> None:
    # Between 150 and 400 MB are too little for eight rows and enough for fewer.
    status, said = go(starved(tmp_path / "starved"), "memory", 250)
    assert status == 0
    assert said["remedies"]
    for remedy in said["remedies"]:
        assert remedy["row"] == "E1"
        settings = remedy["settings"]
        assert settings.get("per_device_train_batch_size", 8) * settings.get("gradient_accumulation_steps", 1) == 8
    status, free = go(starved(tmp_path / "free"))
    assert (status, free["remedies"]) == (0, [])
    tensors = [load_file(tmp_path / name / "output" / "adapter_model.safetensors") for name in ("starved", "free")]
    assert all(torch.allclose(tensors[0][name], tensors[1][name], atol=2e-3) for name in tensors[0])


def test_a_run_killed_after_a_remedy_goes_on_with_it(tmp_path: Path) -> None:
    prepare(tmp_path, max_steps=2, save_steps=1)
    taken = {"row": "E1", "action": "smaller_micro_batch", "step": 1}
    settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    assert go(tmp_path, "checkpoint", 1)[0] == -signal.SIGKILL
    _amend(tmp_path / "checkpoints", [{**taken, "settings": settings}])
    status, said = go(tmp_path)
    assert (status, said["remedies"]) == (0, [])
    assert said["metrics"]["remedies"] == [{**taken, "settings": settings}]


def _amend(folder: Path, taken: list[dict[str, Any]]) -> None:
    (directory,) = folder.glob("checkpoint-*")
    checkpoints.amend(checkpoints.Checkpoint(directory, 1), {"remedies": taken})


@pytest.mark.parametrize(("rows", "passes"), [(8, 2), (6, 1), (7, 3), (1, 8), (5, 4), (64, 3)])
def test_the_ladder_out_of_memory_keeps_the_effective_batch_and_ends(rows: int, passes: int) -> None:
    spec = TrainingSpec(
        per_device_train_batch_size=rows, gradient_accumulation_steps=passes, gradient_checkpointing=False,
        max_length=1000, max_length_floor=300,
    )  # fmt: skip
    whole, actions = spec.batch_rows, []
    taken: list[dict[str, Any]] = []
    while True:
        wanted = remedies.with_remedies(spec, taken)
        assert wanted.batch_rows == whole
        remedy = remedies.next_remedy(
            troubles.OUT_OF_MEMORY, wanted, taken, evaluating=False, cuda=True, begun=False
        )  # fmt: skip
        if remedy is None:
            break
        actions.append(remedy.action)
        taken.append({"action": remedy.action, "settings": remedy.settings})
    order = ["smaller_micro_batch", "gradient_checkpointing", "paged_optimizer", "shorter_rows"]
    assert list(dict.fromkeys(actions)) == order[rows == 1 :]
    assert (wanted.per_device_train_batch_size, wanted.max_length) == (1, 300)


def test_the_fast_path_plans_with_less_three_times_and_then_is_left() -> None:
    spec, planned, taken = TrainingSpec(), 80.0, list[dict[str, Any]]()
    while "fast_path" not in (settings := taken[-1]["settings"] if taken else {}):
        planned = settings.get("vram_budget_gb", planned)
        remedy = remedies.next_remedy(
            troubles.OUT_OF_MEMORY, spec, taken, evaluating=False, cuda=True, begun=False, fast_gb=planned
        )
        assert remedy is not None
        taken.append({"action": remedy.action, "settings": remedy.settings})
    assert [entry["settings"] for entry in taken] == [
        {"vram_budget_gb": 60.0}, {"vram_budget_gb": 45.0}, {"vram_budget_gb": 33.75}, {"fast_path": "off"},
    ]  # fmt: skip


def test_a_budget_that_makes_no_other_plan_is_not_tried_again() -> None:
    def following(spec: TrainingSpec, plan: str, taken: list[dict[str, Any]]) -> remedies.Remedy:
        found = remedies.next_remedy(
            troubles.OUT_OF_MEMORY, spec, taken, evaluating=False, cuda=True, begun=False, fast_gb=20, fast_plan=plan
        )
        assert found is not None
        return found

    kept = TrainingSpec.from_mapping({"gradient_checkpointing": False})
    first = following(kept, "all kept, 512 tokens", [])
    assert first.settings == {"vram_budget_gb": 15.0, "gradient_checkpointing": True}
    taken = [{"action": first.action, "settings": first.settings, "plan": "all kept, 512 tokens"}]
    mended = remedies.with_remedies(kept, taken)
    assert following(mended, "inputs kept, 512 tokens", taken).settings == {"vram_budget_gb": 15.0}
    assert following(mended, "all kept, 512 tokens", taken).action == "plain_path"


def test_rows_are_never_cut_unless_that_was_allowed() -> None:
    spec = TrainingSpec(per_device_train_batch_size=1)
    found = remedies.next_remedy(troubles.OUT_OF_MEMORY, spec, [], evaluating=False, cuda=False, begun=False)
    assert found is None


def test_the_rate_never_falls_below_its_floor_and_the_rollbacks_are_three() -> None:
    taken: list[dict[str, Any]] = []
    rates = []
    spec = TrainingSpec(learning_rate=1.5e-4)
    while remedy := remedies.next_remedy(
        troubles.NOT_A_NUMBER, remedies.with_remedies(spec, taken), taken, evaluating=False, cuda=False, begun=True
    ):
        taken.append({"action": remedy.action, "settings": remedy.settings})
        rates.append(remedy.settings["learning_rate"])
    assert rates == [7.5e-5, 5e-5, 5e-5]


def test_memory_that_never_suffices_ends_in_one_error_that_says_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Recorder(tmp_path / "checkpoints")
    dataset = write_dataset(tmp_path / "d", letters(4))
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda *_: torch.empty(2**50))  # petabytes
    with pytest.raises(OutOfResources, match="E1: the device ran out of memory") as caught:
        train(tmp_path / "run", dataset, report=report, bnb_4bit_compute_dtype="float32", method="lora")
    rows = [remedy["settings"].get("per_device_train_batch_size") for remedy in report.of_type("remedy")]
    assert rows == [2, 1, *([None] if torch.cuda.is_available() else [])]  # a GPU can still page the optimizer's state
    assert "max_length" in caught.value.remedy
    assert "请减小" in caught.value.remedy


def test_float16s_scale_is_left_to_find_its_own_size_and_a_gradient_that_stays_infinite_is_told(tmp_path: Path) -> None:
    trainer, _ = set_up(tmp_path, write_dataset(tmp_path / "d", letters(4)))
    parameter = next(iter(adapters.trainable(trainer.model).values()))
    for scale, told in ((2.0**16, False), (0.5, True)):
        parameter.grad = torch.full_like(parameter, float("inf"))
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.accelerator.scaler.scale(torch.zeros(1))  # the scale is made at its first use
        if told:
            with pytest.raises(Unstable, match="no number"):
                trainer._clip_grad_norm(trainer.model)
        else:
            assert not torch.isfinite(torch.as_tensor(trainer._clip_grad_norm(trainer.model)))
