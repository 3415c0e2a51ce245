"""What the fast path computes with, read out of a PEFT model; or why it cannot.

Knows the module names of transformers' Llama-shaped decoders. Copies no weight.
"""

from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit

from tunewright.trainer.device import Device
from tunewright.trainer.fast.arithmetic import Arithmetic
from tunewright.trainer.fast.attention import Attention, TorchAttention
from tunewright.trainer.fast.head import HostHead
from tunewright.trainer.fast.layer import Heads, Layer, Norm
from tunewright.trainer.fast.linear import Adapter, Frozen, LinearGroup, Workspace
from tunewright.trainer.fast.passes import GROUPS
from tunewright.trainer.fast.streaming import LayerStream
from tunewright.trainer.spec import TrainingSpec

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
"""Decoders of one shape: RMSNorm, rotary positions, grouped queries, SwiGLU."""
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Those whose angles depend on the position alone; the others look at how long the input is."""
_GROUPS = tuple(zip(("self_attn", "self_attn", "mlp", "mlp"), GROUPS, strict=True))
_PROJECTIONS = frozenset(name for _, names in _GROUPS for name in names)
_ADAPTER = "default"
_BLOCK = 64
"""Weights that bitsandbytes scales together; a row must hold whole blocks."""
_WIDEST_HEAD = 256
"""Of torch's flash attention."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model, as the fast path goes through it."""

    embedding: torch.Tensor
    """[V, D]"""
    layers: tuple[Layer, ...]
    norm: Norm
    head: torch.Tensor | HostHead
    """[V, D], or in host memory."""
    rotary: Any
    """transformers' module that makes angles of positions."""
    workspace: Workspace
    arithmetic: Arithmetic
    stream: LayerStream | None = None
    """Where the layers' weights come from, if they lie in host memory."""


def why_not(model: Any, spec: TrainingSpec, device: Device) -> str | None:  # noqa: ANN401 - PEFT ships no types
    """Return why the fast path does not apply to this run, None if it does."""
    reasons = (
        (spec.method != "qlora", f"method is {spec.method}, it knows qlora"),
        (spec.objective == "dpo", "objective is dpo, it knows sft and cpt"),
        (spec.use_dora, "it knows no DoRA"),
        (bool(spec.modules_to_save), "modules are trained as a whole (modules_to_save)"),
        (device.compute_dtype is torch.float16, "it computes in bfloat16 or float32, this device in float16"),
        (
            device.type == "cuda" and device.compute_dtype is not torch.bfloat16,
            "its attention on a GPU needs bfloat16",
        ),
    )
    return next((why for applies, why in reasons if applies), None) or _why_not_this_model(model.get_base_model())


def _why_not_this_model(causal: Any) -> str | None:  # noqa: ANN401
    config = causal.config
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in MODEL_TYPES:
        return f"the base is a {config.model_type}, it knows {', '.join(MODEL_TYPES)}"
    reasons = (
        (config.hidden_act != "silu", f"the base's activation is {config.hidden_act}, it knows silu"),
        (_slides(config), "the base's attention slides over a window"),
        (getattr(config, "attention_dropout", 0) > 0, "the base drops attention scores out"),
        (rope.get("rope_type", "default") not in ROPE_TYPES, f"the base's positions are {rope.get('rope_type')}"),
        (_head_width(config) > _WIDEST_HEAD, f"the base's heads are wider than {_WIDEST_HEAD}"),
    )
    return next((why for applies, why in reasons if applies), None) or _why_not_these_modules(causal)


def _why_not_these_modules(causal: Any) -> str | None:  # noqa: ANN401
    for name, module in causal.named_modules():
        if hasattr(module, "lora_A") and name.rpartition(".")[2] not in _PROJECTIONS:
            return f"an adapter sits on {name}"
    for layer in causal.model.layers:
        for part, names in _GROUPS:
            for name in names:
                linear = getattr(getattr(layer, part), name)
                base = getattr(linear, "base_layer", linear)
                if not isinstance(base, Linear4bit):
                    return f"{name} is not in 4 bits"
                if base.in_features % _BLOCK:
                    return f"the inputs of {name} ({base.in_features}) are no multiple of {_BLOCK}"
    return None


def read(
    model: Any,  # noqa: ANN401
    device: Device,
    arithmetic: Arithmetic,
    attention: Attention | None = None,
) -> Decoder:
    """Return the decoder of a model for which `why_not` says None; attention is torch's where none is given."""
    causal = model.get_base_model()
    body = causal.model
    workspace = Workspace(device.compute_dtype, body.norm.weight.device)
    heads = heads_of(causal)
    layers = []
    for number, module in enumerate(body.layers):
        qkv, output, gate_up, down = (
            _group(getattr(module, part), names, workspace, arithmetic, number * len(_GROUPS) + at)
            for at, (part, names) in enumerate(_GROUPS)
        )
        heads_module = module.self_attn
        layers.append(
            Layer(
                qkv, output, gate_up, down, _norm(module.input_layernorm), _norm(module.post_attention_layernorm),
                _norm_of(heads_module, "q_norm"), _norm_of(heads_module, "k_norm"), heads, arithmetic,
                attention or TorchAttention(), first=number == 0,
            )
        )  # fmt: skip
    return Decoder(
        body.embed_tokens.weight.detach(), tuple(layers), _norm(body.norm), causal.lm_head.weight.detach(),
        body.rotary_emb, workspace, arithmetic,
    )  # fmt: skip


def heads_of(causal: Any) -> Heads:  # noqa: ANN401
    """Return the heads of transformers' model."""
    config = causal.config
    scale = causal.model.layers[0].self_attn.scaling
    return Heads(config.num_attention_heads, config.num_key_value_heads, _head_width(config), scale)


def _group(
    parent: Any,  # noqa: ANN401
    names: tuple[str, ...],
    workspace: Workspace,
    arithmetic: Arithmetic,
    number: int,
) -> LinearGroup:
    linears = [getattr(parent, name) for name in names]
    frozen = [_frozen(getattr(linear, "base_layer", linear)) for linear in linears]
    return LinearGroup(tuple(frozen), tuple(_adapter(linear) for linear in linears), workspace, arithmetic, number)


def _frozen(linear: Any) -> Frozen:  # noqa: ANN401
    bias = None if linear.bias is None else linear.bias.detach()
    return Frozen(linear.weight, bias, (linear.out_features, linear.in_features))


def _adapter(linear: Any) -> Adapter | None:  # noqa: ANN401
    if not hasattr(linear, "lora_A"):
        return None
    down, up = linear.lora_A[_ADAPTER].weight, linear.lora_B[_ADAPTER].weight
    return Adapter(down, up, float(linear.scaling[_ADAPTER]))


def _norm(module: Any) -> Norm:  # noqa: ANN401
    return Norm(module.weight.detach(), float(module.variance_epsilon))


def _norm_of(attention: Any, name: str) -> Norm | None:  # noqa: ANN401
    return _norm(getattr(attention, name)) if hasattr(attention, name) else None


def _head_width(config: Any) -> int:  # noqa: ANN401
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _slides(config: Any) -> bool:  # noqa: ANN401
    """Return True if a layer sees a window only. Qwen2 names a window and does not use it unless told to."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return getattr(config, "sliding_window", None) is not None
