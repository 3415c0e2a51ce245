"""Weights as QLoRA sees them: quantised to 4 bits and back, by bitsandbytes itself. Knows nothing of adapters."""

from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module

from tunewright.merger.quantization import Quantization

_BLOCK_VALUES = 64
"""Values that share a scale: what transformers' BitsAndBytesConfig takes."""


def round_trip(weight: torch.Tensor, quantization: Quantization, *, transpose: bool = False) -> torch.Tensor:
    """Return what 4 bits make of a weight, in the dtype that training computed with.

    Args:
        weight: outputs × inputs, or inputs × outputs with `transpose` (as GPT-2 stores it).
        quantization: settings of the training.
        transpose: the layer stores its weight transposed; quantised it never is.
    """
    device = "cuda" if torch.cuda.is_available() else weight.device
    given = weight.to(device, getattr(torch, quantization.dtype))
    given = given.T.contiguous() if transpose else given.contiguous()
    packed, state = quantize_4bit(
        given,
        blocksize=_BLOCK_VALUES,
        compress_statistics=quantization.double_quant,
        quant_type=quantization.quant_type,
    )
    found: torch.Tensor = dequantize_4bit(packed, state).to(weight.device)
    return found.T if transpose else found


def quantized_layers(folder: Path) -> dict[str, bool]:
    """Return the names of the weights that transformers quantises in a model → whether they are stored transposed.

    The model is built without memory for its weights.
    """
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    return {f"{name}.weight": isinstance(module, Conv1D) for name, module in linear_layers(model)}


def linear_layers(model: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - transformers ships no types
    """Return names and modules of the layers that transformers' bitsandbytes integration replaces."""
    kept = get_keys_to_not_convert(model)
    return [
        (name, module)
        for name, module in model.named_modules()
        if should_convert_module(name, kept) and (type(module) is torch.nn.Linear or isinstance(module, Conv1D))
    ]


def quantize_in_place(model: Any, quantization: Quantization) -> dict[str, float]:  # noqa: ANN401 - likewise
    """Give a full-precision model the weights that training had; return each layer's error, the Frobenius norm."""
    errors = {}
    for name, module in linear_layers(model):
        weight = module.weight.data
        found = round_trip(weight, quantization, transpose=isinstance(module, Conv1D)).to(weight.dtype)
        errors[name] = float(torch.linalg.vector_norm(found.float() - weight.float()))
        module.weight.data = found.contiguous()
    return errors
