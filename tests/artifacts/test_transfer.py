"""Artifacts in and out: what is committed is whole, what is not whole is not there."""

import os
import shutil
from pathlib import Path

import pytest

from tests.artifacts.conftest import Make
from tunewright.artifacts import (
    ArtifactRef,
    IntegrityError,
    Kind,
    Manifest,
    ObjectNotFound,
    Store,
    UnsafePath,
    commit,
    exists,
    fetch,
    lineage,
    load_manifest,
    seal,
)
from tunewright.artifacts.layout import artifact_prefix, file_key, manifest_key

FILES = {"train.jsonl": b'{"a": 1}\n' * 1000, "deep/汉字 file.bin": os.urandom(3000), "empty": b""}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def key_of(manifest: Manifest, path: str) -> str:
    entry = next(entry for entry in manifest.files if entry.path == path)
    return file_key(artifact_prefix(manifest.ref), path, entry.sha256)


def test_an_artifact_comes_back_as_it_went_in(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make(FILES, spec={"seed": 1}, metrics={"rows": 3})
    ref = commit(store, manifest, folder)
    assert ref == manifest.ref
    assert fetch(store, ref, tmp_path / "out") == manifest
    assert contents(tmp_path / "out") == FILES
    assert load_manifest(store, ref) == manifest
    assert exists(store, ref)


def test_progress_adds_up_to_the_bytes_moved(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make(FILES)
    up: list[int] = []
    down: list[int] = []
    commit(store, manifest, folder, up.append)
    fetch(store, manifest.ref, tmp_path / "out", down.append)
    assert sum(up) == sum(down) == sum(map(len, FILES.values()))


def test_a_second_commit_and_a_second_fetch_move_nothing(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make(FILES)
    commit(store, manifest, folder)
    fetch(store, manifest.ref, tmp_path / "out")
    moved: list[int] = []
    assert commit(store, manifest, folder, moved.append) == manifest.ref
    fetch(store, manifest.ref, tmp_path / "out", moved.append)
    assert moved == []


def test_only_the_chosen_files_are_moved_and_the_rest_can_follow(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make({"tokenizer.json": b"{}", "config.json": b"[]", "model.safetensors": os.urandom(5000)})
    ref = commit(store, manifest, folder)
    moved: list[int] = []
    assert fetch(store, ref, tmp_path / "out", moved.append, only=("tokenizer*", "config.json")) == manifest
    assert sum(moved) == 4
    assert sorted(contents(tmp_path / "out")) == ["config.json", "tokenizer.json"]
    fetch(store, ref, tmp_path / "out", moved.append)
    assert sum(moved) == 5004
    assert contents(tmp_path / "out") == contents(folder)


def test_a_chosen_file_that_is_damaged_is_found_and_one_that_is_not_chosen_is_not_looked_at(
    store: Store, make: Make, tmp_path: Path
) -> None:
    manifest, folder = make({"config.json": b"[]", "model.safetensors": b"weights"})
    ref = commit(store, manifest, folder)
    store.put_bytes(key_of(manifest, "model.safetensors"), b"ruined!")
    fetch(store, ref, tmp_path / "out", only=["*.json"])
    with pytest.raises(IntegrityError, match="safetensors"):
        fetch(store, ref, tmp_path / "out", only=["*.safetensors"])


def test_without_a_manifest_there_is_no_artifact(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make(FILES)
    (folder / "train.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.jsonl"):
        commit(store, manifest, folder)
    assert list(store.list("")), "something was uploaded before it broke"
    assert not exists(store, manifest.ref)
    with pytest.raises(ObjectNotFound):
        fetch(store, manifest.ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_commit_is_completed_by_the_next(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make(FILES)
    shutil.copytree(folder, tmp_path / "whole")
    (folder / "train.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        commit(store, manifest, folder)
    assert fetch(store, commit(store, manifest, tmp_path / "whole"), tmp_path / "out") == manifest


def test_a_folder_that_changed_since_it_was_sealed_is_not_committed(store: Store, make: Make) -> None:
    manifest, folder = make(FILES)
    (folder / "empty").write_bytes(b"no longer")
    with pytest.raises(IntegrityError, match="empty"):
        commit(store, manifest, folder)
    assert not exists(store, manifest.ref)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seed": 1', b'"seed": 2'),
        (b"train.jsonl", b"../in.jsonl"),
        (b'"size_bytes": 3000', b'"size_bytes": 3001'),
        (b"schema_version", b"schema_edition"),
        (b"{", b"["),
    ],
    ids=["spec", "path", "size", "field", "syntax"],
)
def test_a_manifest_that_was_tampered_with_is_refused(
    store: Store, make: Make, tmp_path: Path, old: bytes, new: bytes
) -> None:
    manifest, folder = make(FILES, spec={"seed": 1})
    ref = commit(store, manifest, folder)
    key = manifest_key(artifact_prefix(ref))
    tampered = store.get_bytes(key).replace(old, new)
    assert tampered != store.get_bytes(key)
    store.put_bytes(key, tampered)
    with pytest.raises(IntegrityError):
        fetch(store, ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_manifest_of_another_artifact_is_refused(store: Store, make: Make) -> None:
    (one, folder), (other, _) = make({"a": b"1"}), make({"a": b"2"})
    commit(store, one, folder)
    store.put_bytes(manifest_key(artifact_prefix(one.ref)), other.to_json())
    with pytest.raises(IntegrityError, match=other.ref.id):
        load_manifest(store, one.ref)


def test_a_damaged_file_is_found_on_the_way_in(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make(FILES)
    ref = commit(store, manifest, folder)
    store.put_bytes(key_of(manifest, "train.jsonl"), b"x" * len(FILES["train.jsonl"]))
    with pytest.raises(IntegrityError, match=r"train\.jsonl"):
        fetch(store, ref, tmp_path / "out")
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_a_file_that_is_gone_is_put_back_by_a_commit(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make(FILES)
    ref = commit(store, manifest, folder)
    store.delete(key_of(manifest, "train.jsonl"))
    with pytest.raises(ObjectNotFound, match=r"train\.jsonl"):
        fetch(store, ref, tmp_path / "out")
    commit(store, manifest, folder)
    fetch(store, ref, tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_a_damaged_manifest_is_replaced_by_a_commit(store: Store, make: Make, tmp_path: Path) -> None:
    manifest, folder = make(FILES)
    ref = commit(store, manifest, folder)
    store.put_bytes(manifest_key(artifact_prefix(ref)), b"{}")
    commit(store, manifest, folder)
    assert fetch(store, ref, tmp_path / "out") == manifest


def test_two_runs_with_one_id_keep_the_first_ones_logs_whole(store: Store, make: Make, tmp_path: Path) -> None:
    first, first_folder = make({"model": b"same", "logs/run.txt": b"first"}, metrics={"seconds": 1})
    second, second_folder = make({"model": b"same", "logs/run.txt": b"second"}, metrics={"seconds": 2})
    assert first.ref == second.ref
    commit(store, first, first_folder)
    moved: list[int] = []
    commit(store, second, second_folder, moved.append)
    assert moved == []
    assert fetch(store, first.ref, tmp_path / "out") == first
    assert contents(tmp_path / "out") == {"model": b"same", "logs/run.txt": b"first"}


@pytest.mark.parametrize("moment", ["put_file", "put_bytes"])
def test_two_runs_with_one_id_that_commit_at_once_leave_one_whole_artifact(
    store: Store, make: Make, tmp_path: Path, moment: str
) -> None:
    first, first_folder = make({"model": b"same", "logs/run.txt": b"first"})
    second, second_folder = make({"model": b"same", "logs/run.txt": b"second"})

    class Overtaken:
        """Lets the second run commit just before the first one's first file, or its manifest."""

        def __getattr__(self, name: str) -> object:
            if name == moment:
                commit(store, second, second_folder)
            return getattr(store, name)

    assert commit(Overtaken(), first, first_folder) == second.ref  # type: ignore[arg-type] # all is passed on
    assert fetch(store, first.ref, tmp_path / "out") == second
    assert contents(tmp_path / "out")["logs/run.txt"] == b"second"


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up", "a\\b", "", ".", "./a", "a//b", "a/", "a\nb"])
def test_a_manifest_with_an_unsafe_path_writes_nothing(store: Store, tmp_path: Path, path: str) -> None:
    entry = {"path": path, "size_bytes": 1, "sha256": "0" * 64}
    safe = {"path": "safe", "size_bytes": 1, "sha256": "0" * 64}
    manifest = Manifest.model_validate({"kind": Kind.UPLOAD, "created_by": "gateway", "files": (safe, entry)})
    store.put_bytes(manifest_key(artifact_prefix(manifest.ref)), manifest.to_json())
    with pytest.raises(UnsafePath):
        fetch(store, manifest.ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_whose_name_cannot_be_kept_is_refused_when_sealed(tmp_path: Path) -> None:
    (tmp_path / "back\\slash").write_bytes(b"")
    with pytest.raises(UnsafePath, match="slash"):
        seal(Manifest(kind=Kind.UPLOAD, created_by="gateway"), tmp_path, {})


@pytest.fixture
def family(store: Store, make: Make) -> dict[str, ArtifactRef]:
    """An upload, the dataset made of it, a base, an adapter of both, a model of all three."""
    refs: dict[str, ArtifactRef] = {}
    for name, kind, parents in (
        ("upload", Kind.UPLOAD, []),
        ("base", Kind.MODEL, []),
        ("dataset", Kind.DATASET, ["upload"]),
        ("adapter", Kind.ADAPTER, ["base", "dataset"]),
        ("model", Kind.MODEL, ["adapter", "base", "dataset"]),
    ):
        manifest, folder = make({"content": name.encode()}, kind, parents={parent: refs[parent] for parent in parents})
        refs[name] = commit(store, manifest, folder)
    return refs


def test_lineage_names_every_ancestor_once_and_before_its_own(store: Store, family: dict[str, ArtifactRef]) -> None:
    chain = [manifest.ref for manifest in lineage(store, family["model"])]
    assert set(chain) == set(family.values())
    assert len(chain) == len(family)
    assert chain[0] == family["model"]
    assert chain.index(family["adapter"]) < chain.index(family["dataset"]) < chain.index(family["upload"])


def test_lineage_misses_a_deleted_ancestor_by_name(store: Store, family: dict[str, ArtifactRef]) -> None:
    store.delete(manifest_key(artifact_prefix(family["upload"])))
    with pytest.raises(ObjectNotFound, match=family["upload"].id):
        lineage(store, family["model"])
