"""Which engine an adapter gets: one for all of a base and its settings, another where rank or modules do not fit."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tunewright.inference.command import Slots
from tunewright.inference.deployment import Deployment, State
from tunewright.inference.hosts import Hosts
from tunewright.inference.records import Wanted
from tunewright.inference.spec import DeploymentSpec
from tunewright.inference.workshop import Adapter


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
