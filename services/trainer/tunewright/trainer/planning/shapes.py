"""A base's config.json as the linear layers and widths that it stands for. Reads no weights and no model library.

Knows the decoders of one shape: RMSNorm, rotary positions, grouped queries, SwiGLU (llama, mistral, qwen2, qwen3).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import InvalidData, Refused

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer of each decoder layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool

    @property
    def weights(self) -> int:
        """Parameters without the bias."""
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder; all layers are alike."""

    kind: str
    """`model_type`, such as qwen2."""
    width: int
    mlp: int
    layers: int
    heads: int
    keys: int
    """Heads of keys and values."""
    head_width: int
    vocabulary: int
    tied: bool
    """Embeddings and head are one tensor."""
    linears: tuple[Linear, ...]
    """Of one layer."""
    head_norms: bool
    """Queries and keys have norms of their own."""
    slides: bool = False
    """Some layers see a window of the tokens only, which the fast path does not know."""

    @property
    def linear_weights(self) -> int:
        """Weights of all linear layers but the head: what 4 bits are made of."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def embedding(self) -> int:
        """Parameters of the embeddings; the head has as many."""
        return self.vocabulary * self.width

    @property
    def small(self) -> int:
        """Parameters of norms and biases."""
        norms = 2 * self.width + (2 * self.head_width if self.head_norms else 0)
        biases = sum(linear.outputs for linear in self.linears if linear.bias)
        return self.layers * (norms + biases) + self.width

    @property
    def parameters(self) -> int:
        """All of the model's, embeddings and head counted once where they are tied."""
        return self.linear_weights + self.small + self.embedding * (1 if self.tied else 2)

    @property
    def queries(self) -> int:
        """Outputs of the query projection."""
        return self.heads * self.head_width

    @property
    def qkv(self) -> int:
        """Outputs of the three projections of attention together."""
        return (self.heads + 2 * self.keys) * self.head_width


def read_shape(base: Path) -> Shape:
    """Return the shape of the base in a folder, or of a config.json.

    Raises:
        InvalidData: no config.json, or one that lacks a size.
        Refused: another kind of model, or one that is quantised already.
    """
    path = base / "config.json" if base.is_dir() else base
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidData(
            f"{path} is no config.json that can be read: {error}",
            remedy="Name the folder of a base model; config.json alone is read.",
        ) from error
    if not isinstance(config, dict):
        raise InvalidData(f"{path} is no object", remedy="Name the folder of a base model.")
    return shape_of(config)


def shape_of(config: Mapping[str, Any]) -> Shape:
    """Return the shape that a config.json describes; Raises as `read_shape` does."""
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise Refused(
            f"a plan knows bases of the kinds {', '.join(MODEL_TYPES)}, this one is {kind!r}",
            remedy="Submit the run without a plan: the trainer makes room by itself where memory runs out.",
        )
    if config.get("quantization_config"):
        raise Refused(
            "the base is quantised already, and adapters are trained against full-precision weights",
            remedy="Name the full-precision model; the trainer quantises it itself.",
        )
    for name in _NEEDED:
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise InvalidData(
                f"config.json: {name}: a whole number above 0 is expected, found {config.get(name)!r}",
                remedy="Take the config.json that came with the model.",
            )
    width, mlp, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    keys = config.get("num_key_value_heads") or heads
    head_width = config.get("head_dim") or (128 if kind == "qwen3" else width // heads)
    return Shape(
        kind=kind,
        width=width,
        mlp=mlp,
        layers=config["num_hidden_layers"],
        heads=heads,
        keys=keys,
        head_width=head_width,
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        linears=_linears(config, kind, width, mlp, heads * head_width, keys * head_width),
        head_norms=kind == "qwen3",
        slides=_slides(config, kind),
    )


def _slides(config: Mapping[str, Any], kind: str) -> bool:
    """Return True if a layer sees a window only. Qwen names a window and does not use it unless told to."""
    kinds = config.get("layer_types")
    if kinds:
        return any(each != "full_attention" for each in kinds)
    used = kind == "mistral" or (kind.startswith("qwen") and bool(config.get("use_sliding_window")))
    return used and config.get("sliding_window") is not None


def _linears(config: Mapping[str, Any], kind: str, width: int, mlp: int, queries: int, keys: int) -> tuple[Linear, ...]:
    """Return a layer's linear layers; where a bias sits is each kind's own (transformers' modeling_*.py)."""
    asked = bool(config.get("attention_bias", False)) and kind in {"llama", "qwen3"}
    qkv, output = asked or kind == "qwen2", asked
    mlp_bias = bool(config.get("mlp_bias", False)) and kind == "llama"
    return (
        Linear("q_proj", width, queries, qkv),
        Linear("k_proj", width, keys, qkv),
        Linear("v_proj", width, keys, qkv),
        Linear("o_proj", queries, width, output),
        Linear("gate_proj", width, mlp, mlp_bias),
        Linear("up_proj", width, mlp, mlp_bias),
        Linear("down_proj", mlp, width, mlp_bias),
    )
