"""A run that is killed at any step and goes on ends in the same bytes as one that never was."""

import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import letters, write_dataset
from tests.trainer.killed_run import INTERRUPTED, main

# 7 rows, 2 × 2 a step: an epoch is two steps, and its last batch is short. Checkpoints fall on an epoch's end (6) and
# within one (3, 9), losses are reported every other step, and dropout draws in each.
SPEC = {
    "learning_rate": 2e-2, "max_steps": 12, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
    "lora_dropout": 0.1, "eval_steps": 3, "save_steps": 3, "logging_steps": 2, "early_stopping_patience": 3,
    "fast_path": "off",  # flash attention on a GPU does not give the same bits twice
}  # fmt: skip
# Real processes, forked from one that has the libraries imported already: seven seconds less for each. The libraries
# touch CUDA as they are imported, which does not survive a fork.
PROCESSES: Any = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
PROCESSES.set_forkserver_preload(["tests.trainer.killed_run"])
CONTENT = ("adapter_model.safetensors", "adapter_config.json", "golden.json", "tokenizer.json", "tokenizer_config.json")


METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora with dora, lora+ and whole norms": {
        "method": "lora", "use_dora": True, "loraplus_lr_ratio": 4, "modules_to_save": ["norm"], "lora_dropout": 0.1,
    },
    "prompt_tuning": {"method": "prompt_tuning"},
    "dpo": {"objective": "dpo", "learning_rate": 1e-3},
}  # fmt: skip


def prepare(folder: Path, **values: Any) -> Path:  # noqa: ANN401 - any spec value
    # Wrong answers are held out, so that the best adapter is an early one and must survive the kill.
    write_dataset(folder / "dataset", letters(7), letters(8, shift=1))
    (folder / "spec.json").write_text(json.dumps({**SPEC, **values}), encoding="utf-8")
    return folder


def go(folder: Path, *how: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - arguments of killed_run.main
    """Run the process to its end, be it violent; return its status and what it said."""
    (folder / "said.json").unlink(missing_ok=True)
    process = PROCESSES.Process(target=main, args=(folder, *how))
    process.start()
    process.join(timeout=120)
    process.kill()
    process.join()
    said = folder / "said.json"
    assert process.exitcode is not None
    return process.exitcode, json.loads(said.read_bytes()) if said.exists() else {}


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "output" / name).read_bytes() for name in CONTENT}


def losses(folder: Path) -> list[dict[str, float]]:
    """What every step and evaluation measured, without what depends on the clock and the machine."""
    lines = (folder / "output" / "logs" / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    kept = {"step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm"}
    return [{name: value for name, value in json.loads(line).items() if name in kept} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = prepare(tmp_path_factory.mktemp("whole"))
    status, said = go(folder)
    assert status == 0
    assert (said["metrics"]["best_step"], said["metrics"]["steps"]) == (6, 12)
    assert said["saved"] == [3, 6, 9, 12]
    return folder


def test_the_same_run_twice_gives_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    assert go(prepare(tmp_path))[0] == 0
    assert content(tmp_path) == content(whole)


@pytest.mark.parametrize(
    "how",
    [("checkpoint", 3), ("checkpoint", 9), ("progress", 8)],
    ids=["after a checkpoint within an epoch", "after the best", "between checkpoints"],
)
def test_a_killed_run_that_goes_on_gives_the_same_bytes_and_losses(
    how: tuple[str, int], whole: Path, tmp_path: Path
) -> None:
    prepare(tmp_path)
    assert go(tmp_path, *how)[0] == -signal.SIGKILL
    assert not (tmp_path / "output" / "adapter_model.safetensors").exists()
    status, said = go(tmp_path)
    assert status == 0
    assert "resume" in said["events"]
    assert content(tmp_path) == content(whole)
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize("step", [4, 6], ids=["between evaluations", "in the middle of an evaluation"])
def test_a_stop_saves_a_checkpoint_and_the_run_goes_on_from_it(step: int, whole: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    status, said = go(tmp_path, "stop", step)
    assert status == INTERRUPTED
    saved = said["saved"][-1]
    assert saved == {4: 5, 6: 6}[step]
    assert (tmp_path / "checkpoints" / f"checkpoint-{saved}").is_dir()
    assert go(tmp_path)[0] == 0
    assert content(tmp_path) == content(whole)
    assert losses(tmp_path) == losses(whole)


def test_a_damaged_newest_checkpoint_costs_steps_and_not_the_result(whole: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    assert go(tmp_path, "checkpoint", 9)[0] == -signal.SIGKILL
    (tmp_path / "checkpoints" / "checkpoint-9" / "optimizer.safetensors").write_bytes(b"half")
    status, said = go(tmp_path)
    assert status == 0
    assert "checkpoint_passed_over" in said["events"]
    assert content(tmp_path) == content(whole)


def test_a_run_killed_after_it_stopped_early_does_not_train_on(tmp_path: Path) -> None:
    prepare(tmp_path, max_steps=40, save_steps=100, early_stopping_patience=1, lr_scheduler_type="constant")
    status, said = go(tmp_path)
    assert status == 0
    stopped = said["metrics"]["steps"]
    assert stopped < 40
    assert said["saved"] == [stopped]
    before = content(tmp_path)
    status, said = go(tmp_path)
    assert (status, said["saved"], said["metrics"]["steps"]) == (0, [], stopped)
    assert said["metrics"]["stopped_early"]
    assert content(tmp_path) == before


@pytest.mark.parametrize("case", METHODS)
def test_every_method_goes_on_bit_for_bit(case: str, tmp_path: Path) -> None:
    pairs = [{"messages": row[:1], "chosen": row[1]["content"], "rejected": "no"} for row in letters(7)]
    rows = (pairs, pairs[:4]) if case == "dpo" else (letters(7), letters(8, shift=1))
    values = {name: value for name, value in SPEC.items() if name != "lora_dropout"} | {"max_steps": 6}
    for name in ("whole", "killed"):
        write_dataset(tmp_path / name / "dataset", *rows)
        (tmp_path / name / "spec.json").write_text(json.dumps({**values, **METHODS[case]}), encoding="utf-8")
    assert go(tmp_path / "whole")[0] == 0
    assert go(tmp_path / "killed", "checkpoint", 3)[0] == -signal.SIGKILL
    status, said = go(tmp_path / "killed")
    assert status == 0
    assert "resume" in said["events"]
    files = [
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole" / "output").iterdir() if path.is_file()
    ]
    assert any(path.suffix == ".safetensors" for path in files)
    for path in files:
        assert (tmp_path / "killed" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes(), path
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
