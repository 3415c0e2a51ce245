"""Our streaming merge against PEFT's own, tensor by tensor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.merger.conftest import TINY, random_adapter
from tunewright.chassis.errors import Refused
from tunewright.merger.adapter_config import read_adapter_config
from tunewright.merger.headers import read_headers
from tunewright.merger.plan import plan_merge
from tunewright.merger.streaming import write_merged

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "scaling that is no power of two": {"r": 6, "lora_alpha": 10},
    "rslora": {"use_rslora": True, "r": 6},
    "dora": {"use_dora": True},
    "dora and rslora": {"use_dora": True, "use_rslora": True, "r": 6},
    "patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}},
    "modules_to_save": {"modules_to_save": ["norm"]},
}


def merge(base: Path, adapter: Path, output: Path, max_shard_bytes: int = 10**9) -> list[Path]:
    output.mkdir()
    plan = plan_merge(adapter, read_adapter_config(adapter), read_headers(base), tied=True)
    return write_merged(plan, output, max_shard_bytes, lambda _done, _total: None)


def peft_merge(base: Path, adapter: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base), dtype=dtype), str(adapter))
    merged: dict[str, torch.Tensor] = model.merge_and_unload().state_dict()
    return merged


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32 rounded once"])
def test_merged_weights_are_pefts_to_the_bit(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """PEFT adds the fp32 product to bf16 weights in fp32, too, and rounds once."""
    adapter = random_adapter(TINY, tmp_path / "adapter", **VARIANTS[variant])
    [path] = merge(TINY, adapter, tmp_path / "merged")
    ours, theirs = load_file(path), peft_merge(TINY, adapter, dtype)
    assert set(ours) == set(load_file(TINY / "model.safetensors"))
    for name, tensor in ours.items():
        assert tensor.dtype is torch.bfloat16
        assert torch.equal(tensor, theirs[name].bfloat16()), name


def test_shards_hold_the_same_tensors_as_one_file_and_load_by_their_index(adapter: Path, tmp_path: Path) -> None:
    [single] = merge(TINY, adapter, tmp_path / "one")
    shards = merge(TINY, adapter, tmp_path / "many", max_shard_bytes=60_000)
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    together = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    whole = load_file(single)
    assert together.keys() == whole.keys()
    assert all(torch.equal(together[name], whole[name]) for name in whole)
    (tmp_path / "many" / "config.json").write_bytes((TINY / "config.json").read_bytes())
    loaded = AutoModelForCausalLM.from_pretrained(str(tmp_path / "many"), dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(loaded[name], whole[name]) for name in whole)


def test_the_same_merge_gives_the_same_bytes(adapter: Path, tmp_path: Path) -> None:
    [first], [second] = merge(TINY, adapter, tmp_path / "first"), merge(TINY, adapter, tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()


def test_an_adapter_that_makes_infinity_is_refused_with_the_tensor_named(tmp_path: Path) -> None:
    adapter = random_adapter(TINY, tmp_path / "adapter", scale=1e38)
    with pytest.raises(Refused, match=r"NaN or infinity in model\.layers\.\d\."):
        merge(TINY, adapter, tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("*.safetensors"))
