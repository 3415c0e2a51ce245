"""A model's files are divided as Hugging Face divides them."""

from pathlib import Path

import pytest
from huggingface_hub import split_state_dict_into_shards_factory
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.merger.conftest import TINY
from tests.merger.test_weights import merge
from tunewright.merger.headers import TensorInfo, read_headers
from tunewright.merger.sharding import Shard, lay_out, split


def tensors(sizes: list[int], files: list[str] | None = None) -> list[TensorInfo]:
    """Return tensors of bytes in one file, or in those given."""
    names = files or ["model.safetensors"] * len(sizes)
    return [
        TensorInfo(f"t{number}", "U8", (size,), size, Path(file), 0)
        for number, (size, file) in enumerate(zip(sizes, names, strict=True))
    ]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.integers(1, 40))
def test_tensors_are_cut_by_the_hubs_own_rule(sizes: list[int], limit: int) -> None:
    found = split(tensors(sizes), limit)
    theirs = split_state_dict_into_shards_factory(
        {tensor.name: tensor for tensor in tensors(sizes)},
        get_storage_size=lambda tensor: tensor.size_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    assert [[tensor.name for tensor in shard] for shard in found] == list(theirs.filename_to_tensors.values())
    if len(found) > 1:
        assert [shard.name for shard in lay_out(tensors(sizes), limit)] == list(theirs.filename_to_tensors)


def test_the_bases_own_division_stands_where_no_file_is_too_large() -> None:
    base = tensors([5, 5, 9, 1], ["a", "a", "b", "c"])
    assert [[t.name for t in shard.tensors] for shard in lay_out(base, 10)] == [["t0", "t1"], ["t2"], ["t3"]]
    assert [[t.name for t in shard.tensors] for shard in lay_out(base, 9)] == [["t0"], ["t1"], ["t2"], ["t3"]]
    assert [[t.name for t in shard.tensors] for shard in lay_out(tensors([20]), 10)] == [["t0"]]


@pytest.mark.parametrize("limit", [60_000, 10**9])
def test_a_merged_model_is_divided_as_transformers_saved_its_base(limit: int, adapter: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(str(TINY))
    model.save_pretrained(str(tmp_path / "base"), max_shard_size=limit)
    merge(tmp_path / "base", adapter, tmp_path / "merged", max_shard_bytes=limit)
    names = sorted(path.name for path in (tmp_path / "base").glob("*.safetensors*"))
    assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == names
    for name in names:
        if name.endswith(".json"):
            assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "base" / name).read_bytes()
        else:
            ours, theirs = load_file(tmp_path / "merged" / name), load_file(tmp_path / "base" / name)
            assert list(ours) == list(theirs)


def test_a_file_with_no_tensors_left_out_says_its_size() -> None:
    shard = Shard("model.safetensors", tuple(read_headers(TINY)))
    assert shard.size_bytes == len(shard.header) + sum(tensor.size_bytes for tensor in shard.tensors)
