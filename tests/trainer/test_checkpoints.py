"""Checkpoints: found by number, whole or passed over, and every state comes back as it was."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tunewright.trainer import checkpoints

TENSORS = {"adapter": {"a": torch.arange(4.0)}, "rng": {"cpu": torch.zeros(3, dtype=torch.uint8)}}


def write(folder: Path, step: int, fingerprint: str = "f") -> checkpoints.Checkpoint:
    return checkpoints.write(
        folder, step, fingerprint=fingerprint, tensors=TENSORS, state={"n": step}, trainer_state="{}"
    )


def test_the_newest_is_found_by_number(tmp_path: Path) -> None:
    for step in (900, 1000, 99):
        write(tmp_path, step)
    found = checkpoints.newest(tmp_path, "f", print)
    assert found is not None
    assert (found.step, found.state()) == (1000, {"n": 1000})


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (lambda folder: (folder / "checkpoint.json").unlink(), "incomplete"),
        (lambda folder: (folder / "checkpoint.json").write_text("{"), "incomplete"),
        (lambda folder: (folder / "adapter.safetensors").unlink(), "adapter.safetensors is damaged"),
        (lambda folder: (folder / "state.json").write_text('{"n": 7}'), "state.json is damaged"),
    ],
)
def test_one_that_is_not_whole_is_passed_over_and_told(fault: object, why: str, tmp_path: Path) -> None:
    write(tmp_path, 9)
    fault(write(tmp_path, 10).directory)  # type: ignore[operator] # one of the lambdas above
    told: list[str] = []
    found = checkpoints.newest(tmp_path, "f", told.append)
    assert found is not None
    assert found.step == 9
    assert len(told) == 1
    assert told[0].startswith("checkpoint-10 is passed over")
    assert why in told[0]


def test_one_of_another_run_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 5, fingerprint="other")
    told: list[str] = []
    assert checkpoints.newest(tmp_path, "f", told.append) is None
    assert "belongs to another run" in told[0]


def test_pruning_keeps_the_newest_by_number(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        write(tmp_path, step)
    checkpoints.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-100"]


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    suffixes = {path.suffix for path in write(tmp_path, 1).directory.iterdir()}
    assert suffixes == {".json", ".safetensors"}


def test_an_optimizer_s_state_survives_the_round_trip(tmp_path: Path) -> None:
    shared = torch.arange(3.0)
    state = {
        "state": {0: {"step": 3, "q": {"m": shared}}, 1: {"step": 3, "q": {"m": shared}}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99), "params": [0, 1]}],
    }
    tensors, rest = checkpoints.flatten(state)
    saved = checkpoints.write(
        tmp_path, 1, fingerprint="f", tensors={"optimizer": tensors}, state={"o": rest}, trainer_state="{}"
    )
    back = checkpoints.unflatten(saved.tensors("optimizer"), saved.state()["o"])
    assert back["param_groups"] == [{"lr": 1e-3, "betas": [0.9, 0.99], "params": [0, 1]}]
    assert back["state"][1]["step"] == 3
    assert torch.equal(back["state"][0]["q"]["m"], shared)


def test_every_random_generator_goes_on_where_it_was() -> None:
    def draw() -> tuple[float, float, float]:
        return random.gauss(), float(np.random.standard_normal()), float(torch.randn(1))  # noqa: NPY002 - the global one

    draw()
    tensors, figures = checkpoints.generators()
    figures = json.loads(json.dumps(figures))
    expected = draw()
    checkpoints.set_generators(tensors, figures)
    assert draw() == expected
