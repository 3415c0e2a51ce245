"""LoRA adapters on a 4-bit base: made, copied, saved. Knows no rows and no training loop.

PEFT's `prepare_model_for_kbit_training` freezes the base, casts everything that is not 4-bit to float32 and lets
gradients reach the first layer. Its cast makes float32 copies of embeddings and head (2.2 GB for a 7B model with a
vocabulary of 152k) that change nothing: norms of the usual architectures compute in float32 anyway, and TRL's fused
head accumulates in float32. Here the base is frozen in `base.py`, gradients reach the first layer, nothing is cast,
and the adapters themselves are float32, so that small updates are not lost in bf16.
"""

import difflib
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.trainer.spec import ALL_LINEAR, TrainingSpec

Tensors = dict[str, torch.Tensor]


def add_adapters(model: Any, spec: TrainingSpec) -> Any:  # noqa: ANN401 - PEFT ships no types
    """Return `model` with fresh float32 adapters; they change nothing until they are trained.

    Raises:
        InvalidSpec: a module that the base does not have; the real names are listed.
    """
    check_target_modules(model, spec.target_modules)
    alpha = spec.lora_alpha
    everything = spec.target_modules == (ALL_LINEAR,)
    config = LoraConfig(
        r=spec.lora_r,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type] # PEFT divides it, no more
        lora_dropout=spec.lora_dropout,
        target_modules=linear_names(model) if everything else list(spec.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def check_target_modules(model: Any, wanted: tuple[str, ...]) -> None:  # noqa: ANN401
    """Raise InvalidSpec if a name is none of the base's linear layers, with the real names and the nearest one."""
    known = linear_names(model)
    unknown = [name for name in wanted if name != ALL_LINEAR and name not in known]
    if not unknown:
        return
    violations = []
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"{ALL_LINEAR!r} takes all of them."
        why = f"no linear layer is called {name!r}; this base has {', '.join(known)}; {hint}"
        violations.append(Violation("target_modules", why))
    raise InvalidSpec(f"target_modules: {violations[0].description}", violations=violations)


def linear_names(model: Any) -> list[str]:  # noqa: ANN401
    """Return the last parts of the names of all linear layers but the head, sorted."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
    )


def to_float32(model: Any) -> None:  # noqa: ANN401
    """Cast the adapters back: TRL casts those of 4-bit models to bf16, which loses updates below 1/256 of a weight."""
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()


def trainable(model: Any) -> Tensors:  # noqa: ANN401
    """Return the parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copy_weights(model: Any) -> Tensors:  # noqa: ANN401
    """Return a copy of the trained parameters on the CPU."""
    return {name: parameter.detach().cpu().clone().contiguous() for name, parameter in trainable(model).items()}


def load_weights(model: Any, weights: Tensors) -> None:  # noqa: ANN401
    """Write `weights` (as `copy_weights` returned them) into the model, bit for bit.

    Raises:
        KeyError: the names are not those of the model.
    """
    parameters = trainable(model)
    if parameters.keys() != weights.keys():
        raise KeyError(f"{len(parameters.keys() ^ weights.keys())} names of trained parameters differ")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def save_adapter(model: Any, base_name: str, directory: Path) -> None:  # noqa: ANN401
    """Write adapter_model.safetensors and adapter_config.json, equal bytes for equal adapters."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    save_file(dict(sorted(weights.items())), directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=base_name, inference_mode=True)
    text = json.dumps(_ordered(config), indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _ordered(value: Any) -> Any:  # noqa: ANN401 - any value of PEFT's config
    """Turn sets, whose order differs from process to process, into sorted lists."""
    if isinstance(value, dict):
        return {key: _ordered(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value
