"""Overfitting: told once, and only where the two losses part."""

import pytest

from tunewright.trainer.progress import RunProgress


def told(train: list[float], held_out: list[float]) -> list[int]:
    """Return the evaluations at which overfitting is told; one training report before each evaluation."""
    progress, found = RunProgress(), []
    for step, (loss, eval_loss) in enumerate(zip(train, held_out, strict=True), 1):
        progress.history += [{"step": step, "loss": loss}, {"step": step, "eval_loss": eval_loss}]
        progress.note_evaluation(step, eval_loss, patience=0, threshold=0.0)
        if progress.overfits():
            found.append(step)
    return found


@pytest.mark.parametrize(
    ("train", "held_out", "expected"),
    [
        ([3, 2, 1, 0.5, 0.3, 0.2], [3, 2, 2.5, 2.6, 2.7, 2.8], [4]),
        ([3, 2, 1, 0.5, 0.3, 0.2], [3, 2.5, 2, 1.5, 1.4, 1.3], []),  # both fall
        ([3, 2, 2.5, 3, 3.5, 4], [3, 2, 2.5, 3, 3.5, 4], []),  # both rise: it diverges
        ([3, 2, 1, 0.5, 0.3, 0.2], [3, 2, 2.5, 1.9, 2.5, 1.8], []),  # up and down
        ([3, 2, 1.9, 1.8, 1.7, 1.6], [3, 2, 2.001, 2.002, 2.003, 2.004], []),  # by less than a hundredth
    ],
)
def test_overfitting_is_told_once_where_the_losses_part(
    train: list[float], held_out: list[float], expected: list[int]
) -> None:
    assert told(train, held_out) == expected


def test_a_resumed_run_tells_it_no_second_time() -> None:
    progress = RunProgress(best_step=1, best_eval_loss=1.0)
    progress.history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    progress.history += [{"step": 2, "eval_loss": 1.5}, {"step": 3, "eval_loss": 1.6}]
    assert progress.overfits()
    assert not RunProgress(**progress.to_dict()).overfits()
