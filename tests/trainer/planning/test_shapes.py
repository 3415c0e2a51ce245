"""What is counted from a config.json is what transformers and PEFT build of it, to the parameter."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from tests.trainer.conftest import TINY_MODEL
from tunewright.chassis.errors import InvalidData, InvalidSpec, Refused
from tunewright.trainer import adapters
from tunewright.trainer.planning.counting import nf4_bytes, trained
from tunewright.trainer.planning.shapes import read_shape, shape_of
from tunewright.trainer.spec import TrainingSpec

SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 300,
    "num_key_value_heads": 2,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama, grouped queries": {"model_type": "llama"},
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama, every bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral, wide heads": {"model_type": "mistral", "head_dim": 32},
    "qwen2, tied, biases of q, k and v": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3, heads of their own width and norms": {"model_type": "qwen3"},
}
SPECS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "prompt": {"method": "prompt_tuning", "num_virtual_tokens": 7},
    "seven projections": {"method": "lora", "lora_r": 4},
    "all-linear": {"target_modules": "all-linear", "lora_r": 3},
    "two, with norms": {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["norm", "input_layernorm"]},
    "dora": {"use_dora": True, "lora_r": 2},
}


def meta_model(config: dict[str, Any]) -> Any:  # noqa: ANN401 - transformers ships no types
    known = {key: value for key, value in {**SMALL, **config}.items() if key != "model_type"}
    built = CONFIG_MAPPING[config["model_type"]](**known)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(built)  # type: ignore[no-untyped-call] # transformers' own


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_are_those_of_the_real_model(config: str) -> None:
    shape, model = shape_of({**SMALL, **CONFIGS[config]}), meta_model(CONFIGS[config])
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    assert shape.linear_weights == sum(module.weight.numel() for module in linear)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("method", SPECS)
def test_trained_parameters_are_those_that_the_trainer_makes(config: str, method: str) -> None:
    spec = TrainingSpec.from_mapping(SPECS[method])
    counted = trained(shape_of({**SMALL, **CONFIGS[config]}), spec)
    if spec.method == "prompt_tuning":  # PEFT takes its first vectors from the embeddings, which meta ones do not have
        assert counted.parameters == 7 * 64
        return
    real = adapters.trainable(adapters.make_trainable(meta_model(CONFIGS[config]), spec))
    sizes = sorted(parameter.numel() for parameter in real.values())
    assert sorted(size for size, count in counted.tensors for _ in range(count)) == sizes


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # Qwen2.5-7B and Mistral-7B-v0.3: the counts in their model cards' safetensors metadata.
        (
            {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
             "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
            7_615_616_512,
        ),
        (
            {"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
             "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32768},
            7_248_023_552,
        ),
    ],
    ids=["Qwen2.5-7B", "Mistral-7B-v0.3"],
)  # fmt: skip
def test_published_models_have_their_published_sizes(config: dict[str, Any], parameters: int) -> None:
    assert shape_of(config).parameters == parameters


def test_the_shape_of_a_folder_is_that_of_its_weights() -> None:
    from safetensors import safe_open  # noqa: PLC0415 - this test alone reads weights

    with safe_open(TINY_MODEL / "model.safetensors", "pt") as weights:
        sizes = [weights.get_tensor(name).numel() for name in weights.keys()]  # noqa: SIM118 - no mapping
    assert read_shape(TINY_MODEL).parameters == sum(sizes)


def test_four_bits_take_what_qlora_says() -> None:
    # 0.5 bits of constants a weight without double quantisation, 0.127 with it (QLoRA, section 3).
    assert nf4_bytes(64 * 256, double=False) * 8 == 64 * 256 * 4.5
    assert nf4_bytes(64 * 256, double=True) * 8 / (64 * 256) == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize(
    ("config", "error", "why"),
    [
        ({"model_type": "gemma"}, Refused, "this one is 'gemma'"),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, Refused, "quantised already"),
        ({"model_type": "llama", "hidden_size": "wide"}, InvalidData, "hidden_size: a whole number above 0"),
    ],
)
def test_what_cannot_be_planned_is_told(config: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        shape_of({**SMALL, **config})


def test_a_folder_without_a_config_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"no config\.json that can be read"):
        read_shape(tmp_path)


@pytest.mark.parametrize("setting", ["target_modules", "modules_to_save"])
def test_an_unknown_module_is_told_with_the_known_ones(setting: str) -> None:
    with pytest.raises(InvalidSpec, match=r"is called 'qproj'; this base has"):
        trained(shape_of({**SMALL, "model_type": "llama"}), TrainingSpec.from_mapping({setting: ["qproj"]}))
