"""The second life of a run on Ray is told apart from the first, without a cluster: Ray's own parts are stood in for."""

import threading
from pathlib import Path
from typing import Any

import pytest
import ray

from tunewright.trainer.ranks import on_ray


class Answer:
    """A call of an actor: `ray.get` takes its value."""

    def __init__(self, value: Any) -> None:  # noqa: ANN401 - any JSON
        self._value = value

    def remote(self) -> Any:  # noqa: ANN401 - likewise
        return self._value


class Box:
    """A mailbox with what its workers have said; those that wait for room say nothing."""

    said: list[Any] = []  # noqa: RUF012 - of the life under way

    def __init__(self) -> None:
        self.take = Answer(self.said)
        self.wish_stop = Answer(None)


def test_a_stop_while_a_second_life_waits_for_room_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "remote", lambda _: type("Remote", (), {"options": lambda *_, **__: Maker()}))
    monkeypatch.setattr(on_ray, "TorchTrainer", lambda *_, **__: type("Trainer", (), {"fit": lambda _: waits.wait()})())
    ranks: Any = object.__new__(on_ray.RayRanks)
    ranks.size, ranks._folder, ranks._cuda, ranks._task = 1, tmp_path, False, {"patience_seconds": 900}
    ranks._asked = ranks._heard = False
    monkeypatch.setattr(on_ray.RayRanks, "_wait_for_nodes", lambda _: None)
    try:
        Box.said = [(0, {"say": "event"})]
        ranks.start()
        assert ranks.messages() == Box.said
        Box.said = []
        ranks.start()
        assert ranks.messages() == []
        assert ranks.deaths() == {}
        ranks.ask_to_stop()
        assert ranks.deaths() == {0: "before it began"}
    finally:
        waits.set()


class Maker:
    """What `options` gives: its `remote` makes an actor."""

    def remote(self) -> Box:
        return Box()
