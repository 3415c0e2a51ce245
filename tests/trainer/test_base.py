"""What is refused as a base, and what the tokenizer gets."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.conftest import TINY_MODEL
from tests.trainer.reporting import Recorder
from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidData, InvalidSpec, Refused
from tunewright.trainer import adapters
from tunewright.trainer.base import base_identity, check_base, end_token_ids, load_base, load_tokenizer
from tunewright.trainer.device import pick_device
from tunewright.trainer.spec import TrainingSpec


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "base"))


def edit(path: Path, **values: Any) -> None:  # noqa: ANN401 - any JSON
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, **values}), encoding="utf-8")


def loaded(base: Path, tmp_path: Path, **values: Any) -> Any:  # noqa: ANN401 - a transformers model
    spec = TrainingSpec.from_mapping(values)
    return load_base(base, spec, pick_device(spec, Recorder(tmp_path / "checkpoints")))[0]


def test_a_quantised_base_is_refused(base: Path) -> None:
    edit(base / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(Refused, match=r"quantised already \(gptq\)"):
        check_base(base)


def test_pickled_weights_are_refused_by_name(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(Refused, match=r"no safetensors; it holds pytorch_model\.bin"):
        check_base(base)


def test_a_base_with_code_of_its_own_is_refused(base: Path) -> None:
    edit(base / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(Refused, match=r"code of its own \(AutoModelForCausalLM\)"):
        check_base(base)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"no config\.json"):
        check_base(tmp_path)


def test_truncated_weights_are_an_error(base: Path, tmp_path: Path) -> None:
    weights = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InvalidData, match="does not load"):
        loaded(base, tmp_path)


def test_a_base_without_chat_template_is_an_error(base: Path, tmp_path: Path) -> None:
    (base / "chat_template.jinja").unlink()
    with pytest.raises(InvalidData, match="no chat template"):
        load_tokenizer(base, Recorder(tmp_path / "checkpoints"))


@pytest.mark.parametrize("pad", [None, "<|im_end|>"], ids=["missing", "equal to eos"])
def test_padding_never_is_the_end_of_a_turn(base: Path, tmp_path: Path, pad: str | None) -> None:
    edit(base / "tokenizer_config.json", pad_token=pad)
    report = Recorder(tmp_path / "checkpoints")
    tokenizer = load_tokenizer(base, report)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id not in end_token_ids(tokenizer, base)
    assert report.of_type("pad_token")[0]["pad_token"] == "<|endoftext|>"


def test_every_linear_layer_is_nf4_with_double_quantisation(base: Path, tmp_path: Path) -> None:
    model = loaded(base, tmp_path)
    states = [p.quant_state for p in model.parameters() if hasattr(p, "quant_state")]
    assert len(states) == 2 * 7
    assert {(state.quant_type, state.nested) for state in states} == {("nf4", True)}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_embeddings_are_not_cast_to_float32_and_adapters_are(base: Path, tmp_path: Path) -> None:
    model = adapters.make_trainable(
        loaded(base, tmp_path, bnb_4bit_compute_dtype="bfloat16"), TrainingSpec(bnb_4bit_compute_dtype="bfloat16")
    )
    assert model.get_input_embeddings().weight.dtype is torch.bfloat16
    assert {parameter.dtype for parameter in adapters.trainable(model).values()} == {torch.float32}


def test_an_unknown_module_lists_the_real_ones_with_a_suggestion(base: Path, tmp_path: Path) -> None:
    model = loaded(base, tmp_path)
    with pytest.raises(InvalidSpec) as caught:
        adapters.check_modules(model, TrainingSpec(target_modules=("query_proj", "q_proj")))
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in caught.value.message
    assert "did you mean 'q_proj'?" in caught.value.message
    assert "lm_head" not in adapters.linear_names(model)


def test_all_linear_takes_all_but_the_head(base: Path, tmp_path: Path) -> None:
    spec = TrainingSpec.from_mapping({"target_modules": "all-linear"})
    model = adapters.make_trainable(loaded(base, tmp_path), spec)
    assert set(model.peft_config["default"].target_modules) == set(adapters.linear_names(loaded(base, tmp_path)))


def test_the_base_is_called_what_its_manifest_says_and_never_a_path(base: Path) -> None:
    manifest = Manifest(kind=Kind.MODEL, created_by="merger", base_model="org/model", base_revision="abc")
    given = base_identity(base, {"manifests": {"base": manifest.model_dump(mode="json")}})
    assert (given.name, given.revision) == ("org/model", "abc")
    assert base_identity(base, {}).name == "base"
