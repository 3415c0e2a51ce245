"""Keys: shown once, kept as hashes."""

from pathlib import Path

import pytest

from tunewright.chassis.errors import InvalidSpec, NotFound, Unauthenticated
from tunewright.gateway import keys
from tunewright.gateway.keys import KeyRing


def test_a_key_is_known_by_its_record_and_the_file_does_not_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, second = keys.create(path, "ada"), keys.create(path, "bob")
    ring = KeyRing(path)
    assert ring.check(first).name == "ada"
    assert ring.check(second).name == "bob"
    assert first.split("-", 2)[2] not in path.read_text()


@pytest.mark.parametrize(
    "change", [lambda key: key[:-1], lambda key: f"{key}x", str.upper, lambda _: "", lambda _: "tw-"]
)
def test_a_key_that_differs_in_anything_is_refused(tmp_path: Path, change: object) -> None:
    key = keys.create(tmp_path / "keys.json", "ada")
    with pytest.raises(Unauthenticated):
        KeyRing(tmp_path / "keys.json").check(change(key))  # type: ignore[operator]


def test_the_bootstrap_key_works_beside_the_file_and_alone(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "none.json", "a-key-with-dashes-in-it")
    assert ring.check("a-key-with-dashes-in-it").id == "bootstrap"
    assert not ring.empty
    assert KeyRing(tmp_path / "none.json").empty


def test_a_revoked_key_and_a_taken_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = keys.create(path, "ada")
    with pytest.raises(InvalidSpec, match="taken"):
        keys.create(path, "ada")
    keys.revoke(path, key.split("-")[1])
    with pytest.raises(Unauthenticated):
        KeyRing(path).check(key)
    with pytest.raises(NotFound):
        keys.revoke(path, "gone")


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{}")
    with pytest.raises(InvalidSpec, match=r"keys\.json is not a file of API keys"):
        KeyRing(path)
