"""What does not fit is refused by name, before a weight is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.merger.conftest import TINY, random_adapter
from tunewright.chassis.errors import Refused
from tunewright.merger.adapter_config import read_adapter_config
from tunewright.merger.headers import read_headers
from tunewright.merger.plan import LowRank, plan_merge


def changed(adapter: Path, target: Path, **fields: object) -> Path:
    """Copy an adapter with other settings in its adapter_config.json."""
    shutil.copytree(adapter, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")
    return target


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "IA3"}, "type IA3"),
        ({"bias": "all"}, "bias='all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_parameters": ["x"]}, "target_parameters"),
    ],
)
def test_variants_that_would_not_be_merged_right_are_refused_by_name(
    fields: dict[str, Any], words: str, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=words):
        read_adapter_config(changed(adapter, tmp_path / "changed", **fields))


def test_a_rank_that_its_tensors_do_not_have_is_refused(adapter: Path, tmp_path: Path) -> None:
    folder = changed(adapter, tmp_path / "changed", r=8)
    with pytest.raises(Refused, match="do not fit r=8"):
        plan_merge(folder, read_adapter_config(folder), read_headers(TINY), tied=True)


def test_a_base_without_the_adapters_layers_is_refused_with_the_layers_named(adapter: Path) -> None:
    tensors = [tensor for tensor in read_headers(TINY) if "layers.1" not in tensor.name]
    with pytest.raises(Refused, match=r"model\.layers\.1\.\S+: the base has no such layer.* and \d+ more"):
        plan_merge(adapter, read_adapter_config(adapter), tensors, tied=True)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # the very mistake that is shown
def test_a_trained_half_of_tied_embeddings_is_refused(tmp_path: Path) -> None:
    folder = random_adapter(TINY, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with pytest.raises(Refused, match=r"embed_tokens\.weight: tied"):
        plan_merge(folder, read_adapter_config(folder), read_headers(TINY), tied=True)


def test_scaling_is_alpha_over_r_and_over_its_root_for_rslora(adapter: Path, tmp_path: Path) -> None:
    for fields, scaling in (({}, 8 / 4), ({"use_rslora": True}, 8 / 4**0.5)):
        folder = changed(adapter, tmp_path / f"changed-{len(fields)}", **fields)
        plan = plan_merge(folder, read_adapter_config(folder), read_headers(TINY), tied=True)
        assert {change.scaling for change in plan.changes.values() if isinstance(change, LowRank)} == {scaling}
        assert len(plan.changes) == 2 * 7
