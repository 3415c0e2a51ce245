"""Checkpoints: the newest valid one is found by number, whatever lies beside it."""

from pathlib import Path

import pytest

from tunewright.artifacts import Store, checkpoints
from tunewright.artifacts.layout import checkpoint_prefix, file_key, manifest_key

JOB = "j" * 64


def save(store: Store, tmp_path: Path, step: int, text: str = "state") -> None:
    folder = tmp_path / "work" / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text(f"{text} {step}")
    (folder / "trainer_state.json").write_text("{}")
    checkpoints.save(store, JOB, step, folder)


def weights_key(store: Store, step: int) -> str:
    prefix = checkpoint_prefix(JOB, step)
    return next(info.key for info in store.list(prefix) if info.key == file_key(prefix, "weights", ""))


def test_checkpoint_1000_is_newer_than_checkpoint_900(store: Store, tmp_path: Path) -> None:
    for step in (1000, 900, 0):
        save(store, tmp_path, step)
    assert checkpoints.steps(store, JOB) == [1000, 900, 0]
    assert checkpoints.restore_newest(store, JOB, tmp_path / "out") == 1000
    assert (tmp_path / "out" / "checkpoint-1000" / "weights").read_text() == "state 1000"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-1000"]


def test_a_job_without_checkpoints_restores_none(store: Store, tmp_path: Path) -> None:
    assert checkpoints.restore_newest(store, JOB, tmp_path / "out") is None


def test_checkpoints_of_other_jobs_are_not_seen(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 5)
    assert checkpoints.steps(store, JOB[:-1]) == []
    assert checkpoints.restore_newest(store, "other", tmp_path / "out") is None


@pytest.mark.parametrize("damage", ["bytes", "size", "file gone", "manifest gone", "manifest damaged"])
def test_a_damaged_newest_checkpoint_is_skipped_and_leaves_nothing(store: Store, tmp_path: Path, damage: str) -> None:
    for step in (9, 10):
        save(store, tmp_path, step)
    key, manifest = weights_key(store, 10), manifest_key(checkpoint_prefix(JOB, 10))
    match damage:
        case "bytes":
            store.put_bytes(key, b"stale 10")
        case "size":
            store.put_bytes(key, b"")
        case "file gone":
            store.delete(key)
        case "manifest gone":
            store.delete(manifest)
        case _:
            store.put_bytes(manifest, store.get_bytes(manifest)[:-20])
    assert not checkpoints.is_valid(store, JOB, 10)
    assert checkpoints.is_valid(store, JOB, 9)
    assert checkpoints.restore_newest(store, JOB, tmp_path / "out") == 9
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-9"]


def test_a_restored_folder_holds_just_the_checkpoint(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 7)
    folder = tmp_path / "out" / "checkpoint-7"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("half-written by a killed process")
    (folder / "left-over").write_text("x")
    assert checkpoints.restore_newest(store, JOB, tmp_path / "out") == 7
    assert {path.name for path in folder.iterdir()} == {"weights", "trainer_state.json"}
    assert (folder / "weights").read_text() == "state 7"


def test_saving_a_step_again_replaces_it(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 7)
    save(store, tmp_path, 7, "fresh")
    assert checkpoints.restore_newest(store, JOB, tmp_path / "out") == 7
    assert (tmp_path / "out" / "checkpoint-7" / "weights").read_text() == "fresh 7"


def test_prune_keeps_the_newest_by_number(store: Store, tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        save(store, tmp_path, step)
    assert checkpoints.prune(store, JOB, 2) == [9, 8]
    assert checkpoints.steps(store, JOB) == [11, 10]
    assert checkpoints.prune(store, JOB, 2) == []


def test_prune_never_removes_the_newest_valid_one(store: Store, tmp_path: Path) -> None:
    for step in (8, 9, 10):
        save(store, tmp_path, step)
    store.put_bytes(weights_key(store, 10), b"stale 10")
    store.delete(manifest_key(checkpoint_prefix(JOB, 8)))
    assert checkpoints.prune(store, JOB, 1) == [8]
    assert checkpoints.restore_newest(store, JOB, tmp_path / "out") == 9
    with pytest.raises(ValueError, match="keep is 0"):
        checkpoints.prune(store, JOB, 0)


def test_prune_without_a_valid_one_removes_nothing(store: Store, tmp_path: Path) -> None:
    save(store, tmp_path, 8)
    store.delete(manifest_key(checkpoint_prefix(JOB, 8)))
    assert checkpoints.prune(store, JOB, 1) == []
