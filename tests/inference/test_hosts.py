"""Which engine an adapter gets: one for all of a base and its settings, another where rank or modules do not fit."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tunewright.inference.adapters import AdapterDeployment
from tunewright.inference.command import Slots
from tunewright.inference.deployment import Deployment, State
from tunewright.inference.hosts import Hosts
from tunewright.inference.records import Wanted
from tunewright.inference.spec import DeploymentSpec
from tunewright.inference.workshop import Adapter, Workshop


class _Engines:
    """Makes stand-ins for engines; keeps their slots and whether they were stopped."""

    def __init__(self) -> None:
        self.slots: list[Slots] = []
        self.stopped: list[str] = []

    def make(self, wanted: Wanted, slots: Slots, on_change: object) -> Deployment:
        del on_change
        self.slots.append(slots)
        status = SimpleNamespace(state=State.STARTING, wanted=wanted)
        engine: Any = SimpleNamespace(status=status, stop=lambda: self.stopped.append(wanted.name))
        return cast("Deployment", engine)


def _wanted(base: str = "a", **spec: Any) -> Wanted:  # noqa: ANN401 - settings
    canonical = DeploymentSpec(**spec).canonical()
    return Wanted(name="x", model=f"models/{base * 64}", adapter=f"adapters/{'b' * 64}", spec=canonical)


def _adapter(rank: int = 8, *modules: str) -> Adapter:
    return Adapter(Path("adapter"), rank, modules or ("q_proj",), [])


def test_adapters_of_one_base_share_an_engine_and_of_another_base_or_settings_do_not() -> None:
    engines = _Engines()
    hosts = Hosts(engines.make, idle_seconds=0)
    first = hosts.join(_wanted(), _adapter(8), print)
    assert hosts.join(_wanted(), _adapter(16), print) is first, "16 is what an engine takes at least"
    assert hosts.join(_wanted("c"), _adapter(), print) is not first
    assert hosts.join(_wanted(max_model_len=100), _adapter(), print) is not first
    assert len(engines.slots) == 3


def test_a_rank_or_a_module_that_the_engine_has_no_room_for_gets_another_one() -> None:
    engines = _Engines()
    hosts = Hosts(engines.make, idle_seconds=0)
    first = hosts.join(_wanted(), _adapter(8, "q_proj"), print)
    assert hosts.join(_wanted(), _adapter(17, "q_proj"), print) is not first
    assert hosts.join(_wanted(), _adapter(8, "embed_tokens"), print) is not first
    assert [slots.rank for slots in engines.slots] == [16, 32, 16]


def test_the_rank_that_is_asked_for_is_what_the_engine_takes() -> None:
    engines = _Engines()
    Hosts(engines.make, idle_seconds=0).join(_wanted(max_lora_rank=100), _adapter(8), print)
    assert engines.slots[0].rank == 128


def test_an_engine_that_the_last_adapter_has_left_ends_unless_another_one_came() -> None:
    engines = _Engines()
    hosts = Hosts(engines.make, idle_seconds=0.2)
    host = hosts.join(_wanted(), _adapter(), print)
    hosts.leave(host, print)
    assert hosts.join(_wanted(), _adapter(), print) is host
    time.sleep(0.4)
    assert engines.stopped == []
    hosts.leave(host, print)
    time.sleep(0.4)
    assert engines.stopped == [host.deployment.status.wanted.name]
    assert hosts.join(_wanted(), _adapter(), print) is not host


class _Workshop:
    """Fetches an adapter once it is let; keeps whether the files were given back."""

    def __init__(self) -> None:
        self.fetching, self.fetched, self.closed = threading.Event(), threading.Event(), threading.Event()

    @contextmanager
    def prepare_adapter(self, _ref: object) -> Iterator[Adapter]:
        self.fetching.set()
        assert self.fetched.wait(5)
        yield _adapter()
        self.closed.set()


def test_an_adapter_that_is_undeployed_while_it_is_fetched_leaves_no_engine_and_no_file() -> None:
    engines, workshop = _Engines(), _Workshop()
    hosts = Hosts(engines.make, idle_seconds=0)
    with ThreadPoolExecutor(1) as executor:
        made = AdapterDeployment(_wanted(), cast("Workshop", workshop), hosts, executor, unload_seconds=0)
        assert workshop.fetching.wait(5)
        made.stop()
        time.sleep(0.2)  # until it is unloaded
        workshop.fetched.set()
        assert workshop.closed.wait(5)
    assert engines.slots == []


def test_an_adapter_that_is_undeployed_while_its_engine_is_made_leaves_the_engine_to_end() -> None:
    engines, workshop = _Engines(), _Workshop()
    workshop.fetched.set()
    making, let = threading.Event(), threading.Event()

    def make(wanted: Wanted, slots: Slots, on_change: object) -> Deployment:
        making.set()
        assert let.wait(5)
        return engines.make(wanted, slots, on_change)

    hosts = Hosts(make, idle_seconds=0)
    with ThreadPoolExecutor(1) as executor:
        made = AdapterDeployment(_wanted(), cast("Workshop", workshop), hosts, executor, unload_seconds=0)
        assert making.wait(5)
        made.stop()
        time.sleep(0.2)
        let.set()
        assert workshop.closed.wait(5)
    deadline = time.monotonic() + 5
    while not engines.stopped:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert hosts.all() == []
