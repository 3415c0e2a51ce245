"""Figures of a step are the step's own."""

from pathlib import Path
from typing import Any

import pytest
from transformers import Trainer

from tests.trainer.conftest import letters, set_up, write_dataset
from tunewright.trainer.watch import Watch


def test_an_evaluation_before_a_step_makes_its_tokens_a_second_no_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, _ = set_up(tmp_path, write_dataset(tmp_path / "d", letters(4), letters(2)))
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def slow(*_: object, **__: object) -> dict[str, Any]:
        now[0] += 100
        return {}

    monkeypatch.setattr(Trainer, "evaluate", slow)
    (watch,) = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Watch)]
    monkeypatch.setattr(trainer, "take_up_unlogged_loss", lambda: None)  # there is no step yet
    watch.on_train_begin(trainer.args, trainer.state, trainer.control)
    for step in (1, 2):
        trainer.evaluate()
        now[0] += 10
        trainer.progress.tokens += 500
        figures = watch._speed(step, 4)
        assert figures["tokens_per_second"] == 50
        assert figures["eta_seconds"] == 110 * (4 - step), "what is left has evaluations in it"
    assert trainer.progress.seconds == 20
