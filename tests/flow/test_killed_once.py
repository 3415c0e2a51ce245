"""Every process is killed once, with -9, while it has work to do: the run ends in the very same artifacts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shell import tunewright
from tests.flow.conftest import Running, start_stack, write_recipe

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Running]:
    """A stack of its own, to be harmed."""
    running = start_stack(tmp_path / "stack")
    yield running
    tunewright("down", "--dir", str(running.folder.path), timeout=180)


def in_stage(*names: str) -> Any:  # noqa: ANN401 - a predicate over a JSON document
    return lambda run: run["stage"] in names or run["state"] in {"failed", "succeeded"}


def test_a_run_in_which_everything_is_killed_once_ends_in_the_same_artifacts(
    victim: Running, finished: dict[str, Any], tmp_path: Path
) -> None:
    run_id = victim.submit(write_recipe(tmp_path))
    for stage, services in (
        ("import", ["merger"]),
        ("prepare", ["dataprep"]),
        ("train", ["trainer", "gateway", "store"]),
        ("merge", ["merger"]),
        ("deploy_base", ["inference"]),
        ("evaluate", ["evaluator", "gateway"]),
    ):
        victim.wait(run_id, in_stage(stage, *_later(stage)), 300)
        victim.kill(*services)
    run = victim.wait_for_end(run_id)
    assert run["state"] == "succeeded", run["failure"]
    for stage in ("import", "prepare", "train", "merge"):
        assert run["artifacts"][stage] == finished["artifacts"][stage], stage
    metrics = victim.get(f"/v1/artifacts/{run['artifacts']['evaluate']}")["metrics"]
    assert metrics["tuned_eval_loss"] < 0.7 * metrics["base_eval_loss"]


def _later(stage: str) -> tuple[str, ...]:
    """Return the stages after this one: a stage may be over before it is seen."""
    order = ("import", "prepare", "train", "merge", "deploy_base", "deploy_tuned", "evaluate", "promote")
    return order[order.index(stage) + 1 :]
