"""What is trained on top of a frozen base, or the whole base: chosen by the method, copied, saved.

LoRA and its kin, soft prompts, or every weight. Knows no rows and no training loop.

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
from peft import (
    LoraConfig,
    PeftModel,
    PromptTuningConfig,
    PromptTuningInit,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file

from tunewright.chassis.errors import InvalidData, InvalidSpec, Violation
from tunewright.trainer.fast.head import HostHead
from tunewright.trainer.fast.placing import HostEmbedding
from tunewright.trainer.ranks.sharding import packed_parameters
from tunewright.trainer.spec import ALL_LINEAR, TrainingSpec

Tensors = dict[str, torch.Tensor]


def make_trainable(model: Any, spec: TrainingSpec) -> Any:  # noqa: ANN401 - PEFT ships no types
    """Return `model` with what the method trains: fresh adapters, a fresh prompt, or all of its weights.

    Fresh LoRA adapters change nothing until they are trained.

    Raises:
        InvalidSpec: a module that the base does not have; the real names are listed.
    """
    if spec.method == "full":
        return model.requires_grad_(requires_grad=True)
    return get_peft_model(model, _prompt(spec) if spec.method == "prompt_tuning" else _lora(model, spec))


def _lora(model: Any, spec: TrainingSpec) -> LoraConfig:  # noqa: ANN401
    check_modules(model, spec)
    alpha = spec.lora_alpha
    everything = spec.target_modules == (ALL_LINEAR,)
    return LoraConfig(
        r=spec.lora_r,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # type: ignore[arg-type] # PEFT divides it, no more
        lora_dropout=spec.lora_dropout,
        target_modules=linear_names(model) if everything else list(spec.target_modules),
        modules_to_save=list(spec.modules_to_save) or None,
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _prompt(spec: TrainingSpec) -> PromptTuningConfig:
    """Vectors begin as those of real tokens: random ones lie far from anything that the model knows."""
    return PromptTuningConfig(
        num_virtual_tokens=spec.num_virtual_tokens,
        prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        task_type="CAUSAL_LM",
    )


def check_modules(model: Any, spec: TrainingSpec) -> None:  # noqa: ANN401
    """Look whether the base has the modules that the spec names.

    Raises:
        InvalidSpec: one is unknown, with the real names and the nearest one; or cannot be trained as a whole.
    """
    linear = linear_names(model)
    violations = [
        _unknown("target_modules", name, linear, f"{ALL_LINEAR!r} takes all of them.")
        for name in spec.target_modules
        if name != ALL_LINEAR and name not in linear
    ]
    whole = whole_names(model)
    violations += [
        _unknown("modules_to_save", name, whole, "leave it out.") for name in spec.modules_to_save if name not in whole
    ]
    violations += [
        Violation("modules_to_save", f"{name!r} gets adapters already (target_modules); name it in one of both")
        for name in spec.modules_to_save
        if name in spec.target_modules or (spec.target_modules == (ALL_LINEAR,) and name in linear)
    ]
    tied = _tied_names(model) & set(spec.modules_to_save)
    violations += [
        Violation("modules_to_save", f"{name!r} shares its weights with another module of this base, so that training "
                  "one alone would part them; leave it out, or train by method full")
        for name in sorted(tied)
    ]  # fmt: skip
    if violations:
        raise InvalidSpec(f"{violations[0].field}: {violations[0].description}", violations=violations)


def _unknown(field: str, name: str, known: list[str], otherwise: str) -> Violation:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else otherwise
    kind = "linear layer" if field == "target_modules" else "module"
    return Violation(field, f"no {kind} is called {name!r}; this base has {', '.join(known)}; {hint}")


def whole_names(model: Any) -> list[str]:  # noqa: ANN401
    """Return the last parts of the names of all modules that hold weights of their own, sorted."""
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if name and next(module.parameters(recurse=False), None) is not None
        }
    )


def _tied_names(model: Any) -> set[str]:  # noqa: ANN401
    """Return the names of embeddings and head if they are one tensor."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embeddings.weight is not head.weight:
        return set()
    return {name.rpartition(".")[2] for name, module in model.named_modules() if module is embeddings or module is head}


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
    """Cast what is trained back: on 4-bit models TRL casts it to bf16, which loses updates below 1/256 of a weight."""
    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()


def trainable(model: Any) -> Tensors:  # noqa: ANN401
    """Return the parameters that are trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def all_finite(model: Any) -> bool:  # noqa: ANN401
    """Return True if every trained parameter is a number."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in trainable(model).values())


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


def load_start(model: Any, folder: Path) -> None:  # noqa: ANN401
    """Write the adapter in `folder` into the model's own, and into TRL's copy of it that DPO compares with.

    After a trainer was built: on 4-bit models TRL rounds adapters to bf16, which the first weights must not be.

    Raises:
        InvalidData: it is an adapter of other modules or another rank.
    """
    given = load_file(folder / "adapter_model.safetensors")
    for name in model.peft_config:
        for parameter_name, parameter in model.named_parameters():
            if f".{name}." in parameter_name:
                parameter.data = parameter.data.float()
        known = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        differing = sorted(known.keys() ^ given.keys())
        differing += [key for key in known.keys() & given.keys() if known[key].shape != given[key].shape]
        if differing:
            raise InvalidData(
                f"the adapter to go on from has other tensors than this run's, such as {differing[0]}",
                remedy="Train with the rank, target_modules and modules_to_save that it was made with.",
            )
        set_peft_model_state_dict(model, dict(given), adapter_name=name)


def count(model: Any) -> tuple[int, int]:  # noqa: ANN401
    """Return the numbers of trained and of all parameters; one in 4 bits counts as one."""
    # An embedding that is the head as well counts once.
    host = [module.host for module in model.modules() if isinstance(module, HostEmbedding | HostHead)]
    away = sum({weight.data_ptr(): weight.numel() for weight in host}.values())
    if isinstance(model, PeftModel):
        trained, everything = model.get_nb_trainable_parameters()
        return int(trained), int(everything) + packed_parameters(model) + away
    total = sum(parameter.numel() for parameter in model.parameters())
    return sum(parameter.numel() for parameter in trainable(model).values()), total


def save_adapter(model: Any, base_name: str, directory: Path) -> None:  # noqa: ANN401
    """Write adapter_model.safetensors and adapter_config.json, equal bytes for equal adapters."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
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
