"""What a stage says reaches whoever listens, in words; checkpoints that were handed over stay as they were."""

from pathlib import Path
from typing import Any

from tunewright.chassis.reporter import StageReporter, handed_name


def test_a_checkpoint_that_is_amended_is_handed_over_beside_the_one_on_its_way(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    outbox = tmp_path / "outbox"
    report = StageReporter(said.append, tmp_path / "checkpoints", outbox, {})
    for state in ("first", "amended"):
        folder = tmp_path / state
        folder.mkdir()
        (folder / "state.json").write_text(state, encoding="utf-8")
        report.checkpoint(folder, 4)
    handed = [outbox / handed_name(event["data"]["step"], event["data"]["handed"]) for event in said]
    assert [(folder / "state.json").read_text(encoding="utf-8") for folder in handed] == ["first", "amended"]


def test_figures_are_told_in_words_and_bytes_in_gb(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    report = StageReporter(said.append, tmp_path / "checkpoints", None, {})
    report.progress(3, 9, unit="steps", loss=2.34567, memory_bytes=4.457e9)
    assert said[0]["message"] == "3/9 steps loss=2.346 memory=4.46GB"
    assert said[0]["data"]["memory_bytes"] == 4.457e9
