"""TensorBoard's files, read back by TensorBoard itself: the figures that were reported, none twice after a resume."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.trainer.conftest import letters, train, write_dataset
from tests.trainer.reporting import Recorder
from tunewright.trainer.board import Board


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return chart → (step, value)."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_run_writes_what_it_reports_and_the_artifact_does_not_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "d", letters(8), letters(8))
    plain = train(tmp_path / "plain", dataset, max_steps=4, eval_steps=2, logging_steps=1)
    monkeypatch.setenv("TUNEWRIGHT_TENSORBOARD_DIR", str(tmp_path / "boards"))
    report = Recorder(tmp_path / "shown" / "checkpoints", runtime={"job_id": "0123456789abcdef"})
    shown = train(tmp_path / "shown", dataset, max_steps=4, eval_steps=2, logging_steps=1, report=report)
    charts = read(tmp_path / "boards" / "0123456789ab")
    losses = [(entry["step"], entry["loss"]) for entry in report.steps if "loss" in entry]
    assert [step for step, _ in charts["loss/train"]] == [1, 2, 3, 4]
    assert [value for _, value in charts["loss/train"]] == pytest.approx([loss for _, loss in losses], rel=1e-6)
    assert [step for step, _ in charts["loss/held_out"]] == [0, 2, 4]
    assert {"tokens_per_second/train", "learning_rate/train", "memory_bytes/train"} <= charts.keys()
    weights = "adapter_model.safetensors"
    assert (shown.output / weights).read_bytes() == (plain.output / weights).read_bytes()


def test_a_resumed_job_hides_the_steps_that_were_lost(tmp_path: Path) -> None:
    first = Board(tmp_path)
    first.begin(0)
    for step in range(1, 6):
        first.add(step, {"loss": float(step)})
    second = Board(tmp_path)  # the first process was killed; its newest checkpoint was that of step 3
    second.begin(3)
    for step in range(4, 7):
        second.add(step, {"loss": 10.0 * step})
    second.close()
    assert read(tmp_path)["loss/train"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
