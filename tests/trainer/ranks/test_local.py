"""Two processes of one machine train as one does, and whatever befalls one of them befalls the run but once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.conftest import Trained, letters, train, write_dataset
from tests.trainer.ranks.forked import Plan, fork
from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import Interrupted, OutOfResources

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="two processes need two GPUs, or none"
)
# 7 rows, steps of 8: an epoch is one step of 2 + 2 + 2 + 1 rows, and an evaluation of 5 rows leaves a blank.
SPEC: dict[str, Any] = {
    "max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "lora_dropout": 0.0,
    "eval_steps": 2, "per_device_eval_batch_size": 2, "early_stopping_patience": 0, "optim": "adamw_torch",
    "bnb_4bit_compute_dtype": "float32",
}  # fmt: skip


def go(folder: Path, processes: int, report: Recorder | None = None, **values: Any) -> Trained:  # noqa: ANN401
    dataset = folder / "dataset"
    if not dataset.exists():
        write_dataset(dataset, letters(7), letters(5, shift=1))
    run = folder / f"run{len(list(folder.iterdir()))}"
    return train(run, dataset, report=report, processes=processes, **{**SPEC, **values})


def measured(result: Trained, *names: str) -> list[list[float]]:
    return [[entry[name] for name in names if name in entry] for entry in result.report.steps]


def adapter(result: Trained) -> dict[str, torch.Tensor]:
    return dict(load_file(result.output / "adapter_model.safetensors"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return go(tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two processes to which nothing happened."""
    with pytest.MonkeyPatch.context() as patch:
        fork(patch)
        return go(tmp_path_factory.mktemp("two"), 2)


def assert_alike(found: Trained, wanted: Trained, *, figures: bool = True) -> None:
    names = ("step", "loss", "eval_loss", "grad_norm")
    if figures:
        for ours, theirs in zip(measured(found, *names), measured(wanted, *names), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    weights, others = adapter(found), adapter(wanted)
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-5)


def test_losses_gradients_and_adapter_are_those_of_one_process(alone: Trained, two: Trained) -> None:
    assert_alike(two, alone)
    assert two.manifest.metrics["tokens"] == alone.manifest.metrics["tokens"]
    assert two.manifest.spec == alone.manifest.spec


def test_only_one_process_speaks_saves_and_writes(alone: Trained, two: Trained) -> None:
    (split,) = two.report.of_type("processes")
    assert (split["processes"], split["per_device_train_batch_size"], split["passes"]) == (2, 2, 2)
    told = [kind for kind, _, _ in two.report.events if kind != "processes"]
    assert told == [kind for kind, _, _ in alone.report.events]
    assert two.report.saved == alone.report.saved == [2, 4, 6]
    assert {path.name for path in two.output.iterdir()} == {path.name for path in alone.output.iterdir()}
    assert not (two.report.checkpoints / ".handed").exists()


def test_after_a_kill_all_go_on_from_the_newest_checkpoint_to_the_same_bytes(
    two: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(monkeypatch, {0: ("kill", 4)})
    result = go(tmp_path, 2)
    (restart,) = result.report.of_type("restart")
    assert restart["restarts"] == 1
    (text,) = [message for kind, message, _ in result.report.events if kind == "restart"]
    assert text.startswith("process 0 of 2 was ended by SIGKILL; all are started again")
    assert [event["step"] for event in result.report.of_type("resume")] == [2]
    assert (result.output / "adapter_model.safetensors").read_bytes() == (
        two.output / "adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.heavy  # the others wait for it as long as the setting says
def test_a_process_that_is_frozen_is_named_after_the_time_that_the_service_allows(
    two: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_RANK_PATIENCE_SECONDS", "15")
    fork(monkeypatch, {1: ("freeze", 4)})
    result = go(tmp_path, 2)
    (text,) = [message for kind, message, _ in result.report.events if kind == "restart"]
    assert text.startswith("process 1 of 2 lives and does not answer (")
    assert "15000ms" in text
    assert (result.output / "adapter_model.safetensors").read_bytes() == (
        two.output / "adapter_model.safetensors"
    ).read_bytes()


def test_a_process_that_cannot_join_the_others_says_so_and_all_are_started_again(
    two: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(monkeypatch, {1: ("join", 0)})
    result = go(tmp_path, 2)
    (text,) = [message for kind, message, _ in result.report.events if kind == "restart"]
    assert text.startswith(
        "process 1 of 2 could not join the others: RuntimeError: [c10d] no route to the meeting point; all are started"
    )
    assert (result.output / "adapter_model.safetensors").read_bytes() == (
        two.output / "adapter_model.safetensors"
    ).read_bytes()


def test_a_kill_ends_the_run_with_one_error_where_the_recipe_wants_no_restarts(
    alone: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(monkeypatch, {1: ("kill", 5)})
    report = Recorder(tmp_path / "checkpoints")
    with pytest.raises(OutOfResources, match=r"^process 1 of 2 was ended by SIGKILL; .* again 0 times"):
        go(tmp_path / "first", 2, report, max_restarts=0)
    assert report.saved == [2, 4]
    # What two have begun, one goes on with.
    result = go(tmp_path / "second", 1, report)
    assert [event["step"] for event in report.of_type("resume")] == [4]
    assert_alike(result, alone)


def test_what_one_process_has_begun_two_go_on_with(
    alone: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Recorder(tmp_path / "checkpoints")
    report.stop = lambda: bool(report.steps) and report.steps[-1]["step"] >= 3
    with pytest.raises(Interrupted):
        go(tmp_path / "first", 1, report)
    report.stop = lambda: False
    fork(monkeypatch)
    result = go(tmp_path / "second", 2, report)
    assert [event["step"] for event in report.of_type("resume")] == [4]
    assert_alike(result, alone, figures=False)


def test_a_wish_to_stop_stops_all_at_the_same_step_and_two_go_on_to_the_same_bytes(
    two: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(monkeypatch)
    report = Recorder(tmp_path / "checkpoints")
    report.stop = lambda: bool(report.steps)
    with pytest.raises(Interrupted):
        go(tmp_path / "first", 2, report)
    # Early or late, as the wish comes through; never at the end.
    begun = report.saved[-1] if report.saved else 0
    assert begun < 6
    report.stop = lambda: False
    result = go(tmp_path / "second", 2, report)
    assert [event["step"] for event in report.of_type("resume")] == ([begun] if begun else [])
    assert (result.output / "adapter_model.safetensors").read_bytes() == (
        two.output / "adapter_model.safetensors"
    ).read_bytes()


def remedied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan) -> tuple[Trained, dict[str, Any]]:
    fork(monkeypatch, plan)
    result = go(tmp_path, 2, max_steps=4)
    (remedy,) = result.report.of_type("remedy")
    assert not result.report.of_type("restart")
    assert result.manifest.metrics["steps"] == 4
    assert [taken["action"] for taken in result.manifest.metrics["remedies"]] == [remedy["action"]]
    return result, remedy


def test_a_gradient_that_is_no_number_in_one_process_rolls_all_back_once_and_names_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, remedy = remedied(tmp_path, monkeypatch, {1: ("nan", 3)})
    assert (remedy["row"], remedy["step"], remedy["going_on_after"]) == ("E6", 3, 2)
    assert remedy["settings"]["learning_rate"] == 5e-3
    assert sorted(remedy["rows"]) == [f"train.jsonl:{n}" for n in range(1, 8)]


def test_memory_that_runs_out_in_one_process_makes_micro_batches_of_all_smaller_and_keeps_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, remedy = remedied(tmp_path, monkeypatch, {1: ("memory", 3)})
    assert (remedy["row"], remedy["action"], remedy["going_on_after"]) == ("E1", "smaller_micro_batch", 2)
    assert remedy["settings"] == {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}


def test_all_stop_early_at_the_same_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork(monkeypatch)
    stop: dict[str, Any] = {"max_steps": 12, "early_stopping_patience": 1, "lr_scheduler_type": "constant"}
    result = go(tmp_path, 2, **stop)
    assert len(result.report.of_type("early_stop")) == 1
    assert result.manifest.metrics["stopped_early"]
    assert result.manifest.metrics["steps"] < 12


def test_pairs_of_answers_weigh_the_same_in_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [{"messages": row[:1], "chosen": row[1]["content"], "rejected": "no"} for row in letters(5)]
    write_dataset(tmp_path / "dataset", pairs, pairs[:3])
    # Three batches an epoch, of 2 + 2 + 1 pairs: the second process has a blank in its second pass.
    values: dict[str, Any] = {"objective": "dpo", "learning_rate": 1e-3, "max_steps": 3, "eval_steps": 3}
    first = go(tmp_path, 1, **values)
    fork(monkeypatch)
    assert_alike(go(tmp_path, 2, **values), first)


def test_the_fast_path_takes_the_mean_of_the_same_gradients(
    alone: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(monkeypatch)
    result = go(tmp_path, 2, fast_path="on")
    assert [event["fast"] for event in result.report.of_type("fast_path")] == [True]
    assert_alike(result, alone)


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_a_base_in_shards_gives_the_same_adapter_to_the_last_bit(
    method: str, two: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(monkeypatch)
    whole = two if method == "qlora" else go(tmp_path, 2, method=method)
    result = go(tmp_path, 2, method=method, fsdp="full_shard")
    (shards,) = result.report.of_type("sharded")
    assert 0 < shards["kept_bytes"] * 2 == shards["total_bytes"]
    for name in ("adapter_model.safetensors", "golden.json"):
        assert (result.output / name).read_bytes() == (whole.output / name).read_bytes()
    for figure in ("total_parameters", "trainable_parameters", "best_eval_loss"):
        assert result.manifest.metrics[figure] == whole.manifest.metrics[figure]
    assert result.manifest.spec == whole.manifest.spec
