"""Memory decides whether a second engine starts beside the first or after it. Engines are stand-ins without vLLM."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tunewright.chassis.errors import OutOfResources
from tunewright.inference.command import EnginePlan
from tunewright.inference.deployment import Deployment, Restarts, State
from tunewright.inference.golden import Proof
from tunewright.inference.memory import MemoryBudget
from tunewright.inference.records import Wanted
from tunewright.inference.spec import DeploymentSpec
from tunewright.inference.workshop import Prepared, Workshop

GIB = 1 << 30
SPEC = DeploymentSpec(kv_cache_bytes=GIB)


def test_claims_on_a_cpu_add_up_to_the_limit_and_are_given_back() -> None:
    budget = MemoryBudget(8 * GIB, on_cpu=True)  # an engine of 1 GiB of weights and 1 of cache needs 4
    told = pytest.raises(OutOfResources, match=r"0\.0 GB are left, this engine needs 4\.3")
    with budget.claim(SPEC, GIB), budget.claim(SPEC, GIB), told, budget.claim(SPEC, GIB):
        pass
    with budget.claim(SPEC, 5 * GIB):
        pass


def test_on_a_gpu_the_shares_must_not_be_more_than_all_of_it() -> None:
    budget = MemoryBudget(0, on_cpu=False)
    half, two_fifths = (DeploymentSpec(gpu_memory_utilization=share) for share in (0.5, 0.4))
    with budget.claim(DeploymentSpec(gpu_memory_utilization=0.6), GIB), budget.claim(two_fifths, GIB):
        pass
    told = pytest.raises(OutOfResources, match="40% of the GPU is left, this engine wants 50%")
    with budget.claim(DeploymentSpec(gpu_memory_utilization=0.6), GIB), told, budget.claim(half, GIB):
        pass


class _Engine:
    """Answers until it is drained."""

    age = 0.1

    def __init__(self, name: str, story: list[str]) -> None:
        self._name, self._story = name, story

    def prove(self, _prompts: object, tick: Callable[[str], None]) -> Proof:
        tick("asking")
        self._story.append(f"{self._name} answers")
        return Proof()

    def look(self, seconds: float) -> None:
        time.sleep(seconds)

    def check(self) -> None:
        pass

    def resident_bytes(self) -> int:
        return 0

    def drain(self) -> None:
        self._story.append(f"{self._name} drained")


class _Workshop:
    """As `Workshop`, without artifacts and processes."""

    def __init__(self, limit: int) -> None:
        self.memory = MemoryBudget(limit, on_cpu=True)
        self.story: list[str] = []

    @contextmanager
    def prepare(self, wanted: Wanted, _slots: object, _tick: object) -> Iterator[Prepared]:
        yield Prepared(EnginePlan(wanted.name, Path("model"), wanted.deployment_spec), [], GIB)

    @contextmanager
    def start_slot(self, _tick: object) -> Iterator[None]:
        yield

    @contextmanager
    def engine(self, plan: EnginePlan) -> Iterator[tuple[str, _Engine]]:
        yield f"http://{plan.name}/v1", _Engine(plan.name, self.story)


def _deployments(limit: int, *, replaces: str) -> tuple[_Workshop, dict[str, Deployment]]:
    workshop, found = _Workshop(limit), dict[str, Deployment]()

    def make_room(name: str) -> None:
        found[name].stop()
        assert found[name].join(10)

    for name, replaced in (("old", ""), ("new", replaces)):
        wanted = Wanted(name=name, model=f"models/{'a' * 64}", spec=SPEC.canonical(), replaces=replaced)
        limits = Restarts(limit=0, window=60, backoff=0.01)
        found[name] = Deployment(wanted, cast("Workshop", workshop), limits, 0.02, make_room=make_room)
        _wait(lambda name=name: found[name].status.state in {State.READY, State.FAILED})  # type: ignore[misc]
    return workshop, found


def test_two_models_stand_side_by_side_where_memory_holds_both() -> None:
    workshop, found = _deployments(8 * GIB, replaces="old")
    assert [deployment.status.state for deployment in found.values()] == [State.READY, State.READY]
    assert workshop.story == ["old answers", "new answers"]
    _stop(found)


def test_where_it_does_not_the_old_one_is_drained_before_the_new_one_starts() -> None:
    workshop, found = _deployments(4 * GIB, replaces="old")
    assert [deployment.status.state for deployment in found.values()] == [State.STOPPED, State.READY]
    assert workshop.story == ["old answers", "old drained", "new answers"]
    _stop(found)


def test_a_model_that_replaces_none_is_refused_for_want_of_memory_and_the_old_one_stays() -> None:
    _, found = _deployments(4 * GIB, replaces="")
    assert [deployment.status.state for deployment in found.values()] == [State.READY, State.FAILED]
    failure: Any = found["new"].status.failure
    assert failure.reason == "OUT_OF_RESOURCES"
    assert "let this one replace another" in failure.remedy
    _stop(found)


def _stop(found: dict[str, Deployment]) -> None:
    for deployment in found.values():
        deployment.stop()
        assert deployment.join(10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("deployment-")]


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
