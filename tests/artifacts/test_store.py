"""What every store promises, asked of both."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tunewright.artifacts import IntegrityError, ObjectExists, ObjectInfo, ObjectNotFound, Store, file_sha256

MIB = 1 << 20


def put(store: Store, path: Path, key: str, data: bytes) -> str:
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    store.put_file(path, key, sha256=sha256)
    return sha256


def test_bytes_come_back_as_they_went_in(store: Store) -> None:
    for data in (b"", b"\0", bytes(range(256)), "汉字\r\n".encode()):
        store.put_bytes("key", data)
        assert store.get_bytes("key") == data


def test_a_plain_put_replaces(store: Store) -> None:
    store.put_bytes("key", b"old")
    store.put_bytes("key", b"new")
    assert store.get_bytes("key") == b"new"


def test_an_unknown_key_is_not_found_and_named(store: Store) -> None:
    with pytest.raises(ObjectNotFound, match="no/such/key"):
        store.get_bytes("no/such/key")
    assert store.stat("no/such/key") is None


def test_delete_removes_and_is_silent_about_nothing(store: Store) -> None:
    store.put_bytes("key", b"1")
    store.delete("key")
    store.delete("key")
    assert store.stat("key") is None


def test_a_create_only_put_refuses_a_taken_key_and_leaves_it(store: Store) -> None:
    store.put_bytes("key", b"first", create_only=True)
    with pytest.raises(ObjectExists, match="key"):
        store.put_bytes("key", b"second", create_only=True)
    assert store.get_bytes("key") == b"first"


@pytest.mark.parametrize("attempt", range(2))
def test_of_eight_create_only_writers_exactly_one_wins(store: Store, attempt: int) -> None:
    barrier = Barrier(8)

    def write(number: int) -> int | None:
        barrier.wait()
        try:
            store.put_bytes(f"race-{attempt}", b"%d" % number, create_only=True)
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(write, range(8)) if number is not None]
    assert len(winners) == 1
    assert store.get_bytes(f"race-{attempt}") == b"%d" % winners[0]


def test_a_listing_is_in_order_of_key_and_keeps_to_its_prefix(store: Store) -> None:
    keys = ["a-b", "a/b", "a/b/c", "a/b.txt", "a0", "b", "a/ü", "a/z", "a/汉字", "a/𝄞", "a/�"]
    for key in keys:
        store.put_bytes(key, key.encode())
    assert [info.key for info in store.list("")] == sorted(keys)
    assert [info.key for info in store.list("a/b")] == ["a/b", "a/b.txt", "a/b/c"]
    assert list(store.list("a/ü")) == [ObjectInfo("a/ü", 4)]
    assert list(store.list("nothing")) == []


def test_a_listing_goes_beyond_one_page(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put_bytes(f"page/{number}", b"x"), range(1100)))
    assert [info.key for info in store.list("page/")] == sorted(f"page/{number}" for number in range(1100))


@pytest.mark.parametrize(
    "key", ["ü/汉字 文件.jsonl", "with space", "a+b&c=d%20e", "q?x#y", 'it\'s "quoted"', "~tilde/…"]
)
def test_odd_keys_are_kept_as_they_are(store: Store, key: str) -> None:
    store.put_bytes(key, b"here")
    assert store.get_bytes(key) == b"here"
    assert [info.key for info in store.list("")] == [key]


@pytest.mark.parametrize("size", [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 16 * MIB, 37 * MIB + 5])
def test_files_of_any_size_come_back_whole(store: Store, tmp_path: Path, size: int) -> None:
    moved: list[int] = []
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    sha256 = file_sha256(source)
    store.put_file(source, "file", sha256=sha256, progress=moved.append)
    assert sum(moved) == size
    assert store.stat("file") == ObjectInfo("file", size, sha256)
    moved.clear()
    store.get_file("file", target, size_bytes=size, sha256=sha256, progress=moved.append)
    assert sum(moved) == size
    assert file_sha256(target) == sha256
    assert {path.name for path in tmp_path.iterdir()} == {"source", "target"}, "nothing of the way there is left"
    assert [info.key for info in store.list("")] == ["file"]


@pytest.mark.parametrize("size", [100, 20 * MIB])
def test_a_file_that_is_there_already_is_not_moved_again(store: Store, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    sha256 = put(store, path, "file", os.urandom(size))
    moved: list[int] = []
    store.put_file(path, "file", sha256=sha256, progress=moved.append)
    store.get_file("file", path, size_bytes=size, sha256=sha256, progress=moved.append)
    assert moved == []


@pytest.mark.parametrize("size", [100, 20 * MIB])
def test_a_file_that_is_not_what_it_should_be_is_not_put(store: Store, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    with pytest.raises(IntegrityError, match="SHA-256"):
        store.put_file(path, "file", sha256="0" * 64)
    assert list(store.list("")) == []


@pytest.mark.parametrize("size", [100, 40 * MIB])
def test_damaged_bytes_never_become_a_file(store: Store, tmp_path: Path, size: int) -> None:
    data = bytearray(os.urandom(size))
    sha256 = put(store, tmp_path / "source", "file", bytes(data))
    data[size // 2] ^= 1
    store.put_bytes("file", bytes(data))
    with pytest.raises(IntegrityError, match=r"file.*SHA-256"):
        store.get_file("file", tmp_path / "target", size_bytes=size, sha256=sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("change", [-1, 1])
def test_an_object_of_another_size_never_becomes_a_file(store: Store, tmp_path: Path, change: int) -> None:
    sha256 = put(store, tmp_path / "source", "file", b"x" * 1000)
    with pytest.raises(IntegrityError, match="1000 bytes"):
        store.get_file("file", tmp_path / "target", size_bytes=1000 + change, sha256=sha256)
    assert not (tmp_path / "target").exists()


def test_a_file_that_is_not_there_is_not_found(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match="nothing"):
        store.get_file("nothing", tmp_path / "target", size_bytes=0, sha256=hashlib.sha256().hexdigest())
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_local_file_is_fetched_again(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    sha256 = put(store, path, "file", b"right")
    path.write_bytes(b"wrong")
    store.get_file("file", path, size_bytes=5, sha256=sha256)
    assert path.read_bytes() == b"right"


def test_a_put_over_other_content_of_the_same_size_is_a_real_put(store: Store, tmp_path: Path) -> None:
    put(store, tmp_path / "old", "file", b"A" * 9 * MIB)
    put(store, tmp_path / "new", "file", b"B" * 9 * MIB)
    assert store.get_bytes("file") == b"B" * 9 * MIB
