"""The same bytes whatever the number of threads and however often the process was killed; all files or none."""

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.merger.conftest import TINY, random_adapter
from tests.merger.merging_process import SMALL_PART_BYTES
from tests.merger.test_weights import merge
from tunewright.chassis.errors import Interrupted, Refused
from tunewright.merger import parts
from tunewright.merger.adapter_config import read_adapter_config
from tunewright.merger.headers import header_bytes, read_headers
from tunewright.merger.plan import MergePlan, plan_merge
from tunewright.merger.sharding import Shard, lay_out
from tunewright.merger.streaming import write_merged


def plan_of(adapter: Path, base: Path = TINY) -> MergePlan:
    return plan_merge(adapter, read_adapter_config(adapter), read_headers(base), tied=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def process(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.merger.merging_process", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def noted_parts(output: Path) -> int:
    notes = output / ".parts"
    return len(notes.read_text("utf-8").splitlines()) if notes.exists() else 0


@pytest.fixture
def expected(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return the files of an undisturbed merge in the same parts."""
    monkeypatch.setattr(parts, "PART_BYTES", SMALL_PART_BYTES)
    merge(TINY, adapter, tmp_path / "expected", max_shard_bytes=60_000)
    return contents(tmp_path / "expected")


@pytest.mark.parametrize("variant", [{}, {"use_dora": True}, {"lora_alpha": 10, "r": 6}])
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    variant: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = random_adapter(TINY, tmp_path / "adapter", **variant)
    monkeypatch.setattr(parts, "PART_BYTES", SMALL_PART_BYTES)
    found = []
    for threads in (1, 2, 7):
        folder = tmp_path / f"threads-{threads}"
        folder.mkdir()
        write_merged(plan_of(adapter), folder, 60_000, lambda _done, _total: None, threads)
        found.append(contents(folder))
    assert found[0] == found[1] == found[2]


def test_killed_at_random_points_and_started_again_it_ends_in_the_same_bytes(
    adapter: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output, draw = tmp_path / "output", random.Random(6)  # noqa: S311 - moments at which to kill
    output.mkdir()
    for _ in range(2):
        running = process(TINY, adapter, output, 0.1)
        before = noted_parts(output)
        while noted_parts(output) < before + 2:
            assert running.poll() is None, running.communicate()
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        running.kill()
        running.communicate()
        assert not list(output.glob("*.safetensors")), "nothing appears before all is there"
    last = process(TINY, adapter, output)
    words, errors = last.communicate()
    assert last.returncode == 0, errors
    count = len(list(parts.cut(shards_of(adapter))))
    assert 0 < int(words.split()[-1]) < count, "parts that were there are not written again"
    assert contents(output) == expected


def shards_of(adapter: Path) -> list[Shard]:
    return lay_out(plan_of(adapter).tensors, 60_000)


def test_bytes_that_were_lost_or_changed_meanwhile_are_written_again(
    adapter: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    output.mkdir()

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        write_merged(plan_of(adapter), output, 60_000, stop, threads=1)
    first = min(output.glob("*.partial"))
    data = bytearray(first.read_bytes())
    data[2000:2100] = bytes(100)
    first.write_bytes(data)
    with (output / ".parts").open("a") as notes:
        notes.write('{"0/1": "cut sh')
    write_merged(plan_of(adapter), output, 60_000, lambda _done, _total: None)
    assert contents(output) == expected


def test_parts_of_another_merge_are_not_gone_on_with(adapter: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    other, output = random_adapter(TINY, tmp_path / "other", scale=0.2), tmp_path / "output"
    output.mkdir()

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        write_merged(plan_of(other), output, 60_000, stop, threads=1)
    write_merged(plan_of(adapter), output, 60_000, lambda _done, _total: None)
    assert contents(output) == expected


def test_a_full_disk_is_told_with_both_figures_and_nothing_is_left(adapter: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    running = process(TINY, adapter, output, 0, 30_000)
    _, errors = running.communicate()
    assert running.returncode == 1
    needed = sum(shard.size_bytes for shard in shards_of(adapter))
    assert f"DISK_FULL: the merged weights take {needed:,} bytes, " in errors
    assert not list(output.iterdir())


def test_a_base_that_is_cut_while_it_is_read_is_refused(adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    data = (TINY / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(data)
    plan = plan_of(adapter, base)
    (base / "model.safetensors").write_bytes(data[:-1000])
    (tmp_path / "output").mkdir()
    with pytest.raises(Refused, match=r"model\.safetensors ends before its header says"):
        write_merged(plan, tmp_path / "output", 10**9, lambda _done, _total: None)
    assert not list((tmp_path / "output").glob("*.safetensors"))


def test_tensors_that_begin_at_odd_bytes_are_merged_too(adapter: Path, tmp_path: Path) -> None:
    """Other writers than safetensors' own do not sort by size of element."""
    base = tmp_path / "base"
    base.mkdir()
    tensors = {
        name: tensor.float() if "layers.1" in name else tensor
        for name, tensor in load_file(TINY / "model.safetensors").items()
    }
    save_file(tensors, base / "model.safetensors")
    found = {tensor.name: tensor for tensor in read_headers(base)}
    order = sorted(found.values(), key=lambda tensor: tensor.dtype)
    odd = [("0", "U8", (3,), 3), *((t.name, t.dtype, t.shape, t.size_bytes) for t in order)]
    blobs = [bytes(3), *(t.file.read_bytes()[t.offset : t.offset + t.size_bytes] for t in order)]
    (base / "model.safetensors").write_bytes(header_bytes(odd) + b"".join(blobs))
    [path] = merge(base, adapter, tmp_path / "merged")
    ours = load_file(path)
    [even] = merge(TINY, adapter, tmp_path / "even")
    assert all(torch.equal(ours[name], tensor) for name, tensor in load_file(even).items() if "layers.1" not in name)
