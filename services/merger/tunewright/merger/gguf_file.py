"""A model as one GGUF file, which llama.cpp reads: llama, qwen2 and qwen3 with byte-level BPE; one tensor in memory.

Matrices in `gguf_type`, all else in fp32. What llama.cpp would read otherwise than transformers does is refused by
name. Knows nothing of whether the result is any good.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

from tunewright.chassis.errors import Refused
from tunewright.merger.headers import TensorInfo, read_headers
from tunewright.merger.safety import chat_template, read_json

NAME = "model.gguf"
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
_TYPES = {
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
}
_WORDS, _REST = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_PATTERNS = {rf"{_WORDS}\p{{N}}{{1,3}}{_REST}": "llama-bpe", rf"{_WORDS}\p{{N}}{_REST}": "qwen2"}
"""A tokenizer's whole splitting pattern → llama.cpp's name of that splitting, which has the same pattern."""
_MARKER = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
"""Marks of the assistant's words, which only training reads."""


def write_gguf(model: Path, output_dir: Path, gguf_type: str) -> None:
    """Write the model in folder `model` to `output_dir`/model.gguf.

    Raises:
        Refused: an architecture, position encoding or tokenizer that llama.cpp would read otherwise.
    """
    config = read_json(model / "config.json")
    architecture = _architecture(config)
    partial = output_dir / f"{NAME}.partial"
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[architecture])
    _add_shape(writer, config)
    _add_tokenizer(writer, model, config)
    writer.add_file_type(_TYPES[gguf_type][1])
    tensors = list(_tensors(model, config, architecture))
    for name, info in tensors:
        type_ = _type_of(info, gguf_type)
        shape = gguf.quant_shape_to_byte_shape(info.shape, type_) if _is_packed(type_) else info.shape
        dtype: Any = np.dtype(_NUMPY[type_])
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, info in tensors:
        with safe_open(str(info.file), framework="pt") as file:
            weight = _permuted(info, file.get_tensor(info.name).float(), config)
        data: Any = gguf.quantize(weight.numpy(), _type_of(info, gguf_type))
        writer.write_tensor_data(np.ascontiguousarray(data))
    writer.close()
    partial.replace(output_dir / NAME)


_NUMPY = {
    gguf.GGMLQuantizationType.F32: np.float32,
    gguf.GGMLQuantizationType.F16: np.float16,
    gguf.GGMLQuantizationType.BF16: np.uint8,
    gguf.GGMLQuantizationType.Q8_0: np.uint8,
}


def _is_packed(type_: gguf.GGMLQuantizationType) -> bool:
    return _NUMPY[type_] is np.uint8


def _architecture(config: dict[str, Any]) -> gguf.MODEL_ARCH:
    kind = config.get("model_type")
    if kind not in _ARCHITECTURES:
        raise Refused(
            f"models of type {kind} are not exported as gguf; {', '.join(_ARCHITECTURES)} are",
            remedy="Convert the merged folder with llama.cpp's own convert_hf_to_gguf.py.",
        )
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise Refused(
            f"positions of type {rope} are not exported as gguf",
            remedy="Convert the merged folder with llama.cpp's own convert_hf_to_gguf.py.",
        )
    return _ARCHITECTURES[str(kind)]


def _add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config
    writer.add_name("model")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path, config: dict[str, Any]) -> None:
    document = read_json(model / "tokenizer.json")
    bpe, added = document["model"], document.get("added_tokens", [])
    tokens = {number: text for text, number in bpe.get("vocab", {}).items()}
    special = {entry["id"]: entry for entry in added}
    tokens |= {number: entry["content"] for number, entry in special.items()}
    merges = [entry if isinstance(entry, str) else " ".join(entry) for entry in bpe.get("merges", [])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(document, merges))
    size = config["vocab_size"]
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types([_token_type(number, tokens, special) for number in range(size)])
    writer.add_token_merges(merges)
    own = read_json(model / "tokenizer_config.json")
    adders = {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "pad_token": writer.add_pad_token_id,
    }
    for key, add in adders.items():
        text = own.get(key)
        name = text.get("content") if isinstance(text, dict) else text
        for number, entry in special.items():
            if entry["content"] == name:
                add(number)
    writer.add_add_bos_token(value=False)
    writer.add_chat_template(without_marks(chat_template(model, "the model")))


def without_marks(template: str) -> str:
    """Return a chat template that renders the same without transformers' `generation` tag, which llama.cpp lacks.

    A statement takes the mark's place: line breaks around a tag are trimmed, those around a value are not.
    """
    return _MARKER.sub(r"{%\1 set generation_ = 0 \2%}", template)


def _token_type(number: int, tokens: dict[int, str], special: dict[int, Any]) -> gguf.TokenType:
    if number in special:
        return gguf.TokenType.CONTROL if special[number].get("special") else gguf.TokenType.USER_DEFINED
    return gguf.TokenType.NORMAL if number in tokens else gguf.TokenType.UNUSED


def _splitting(document: dict[str, Any], merges: list[str]) -> str:
    """Return llama.cpp's name of how the tokenizer splits a text before it merges.

    Raises:
        Refused: it splits in a way that is not known here.
    """
    pre = document.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    kinds = [step.get("type") for step in steps]
    patterns = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    if document["model"].get("type") == "BPE" and "ByteLevel" in kinds:
        if not merges:
            return "gpt-2"  # one token a byte, however it is split
        if kinds == ["Split", "ByteLevel"] and patterns[0] in _PATTERNS:
            return _PATTERNS[patterns[0]]
        if kinds == ["Digits", "ByteLevel"]:
            return "smollm"
        if kinds == ["ByteLevel"]:
            return "gpt-2"
    raise Refused(
        f"a tokenizer of type {document['model'].get('type')} that splits by {kinds} {patterns or ''} is not exported "
        "as gguf",
        remedy="Convert the merged folder with llama.cpp's own convert_hf_to_gguf.py.",
    )


def _tensors(model: Path, config: dict[str, Any], architecture: gguf.MODEL_ARCH) -> Iterator[tuple[str, TensorInfo]]:
    """Yield llama.cpp's name of each tensor, and the tensor.

    Raises:
        Refused: llama.cpp has no such tensor in this architecture.
    """
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for info in sorted(read_headers(model), key=lambda tensor: tensor.name):
        name = names.get_name(info.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise Refused(
                f"{info.name} has no name in llama.cpp",
                remedy="Convert the merged folder with llama.cpp's own convert_hf_to_gguf.py.",
            )
        yield name, info


def _type_of(info: TensorInfo, gguf_type: str) -> gguf.GGMLQuantizationType:
    wanted = _TYPES[gguf_type][0]
    block = gguf.GGML_QUANT_SIZES[wanted][0]
    is_matrix = len(info.shape) > 1 and info.shape[-1] % block == 0
    return wanted if is_matrix else gguf.GGMLQuantizationType.F32


def _permuted(info: TensorInfo, weight: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Return queries and keys of a llama in llama.cpp's order: pairs that turn together stand side by side."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config.get("num_key_value_heads")}
    part = info.name.split(".")[-2]
    if config["model_type"] != "llama" or part not in heads:
        return weight
    count = heads[part] or config["num_attention_heads"]
    halves = weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape).contiguous()
