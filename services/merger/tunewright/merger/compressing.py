"""FP8 and INT4 weights in compressed-tensors' formats, which vLLM serves: one linear layer after the other.

    fp8     weights in E4M3 with one scale an output; activations are quantised per token when the model runs
    int4    weights in 4 bits with one scale a group of 128 inputs (64 or 32 where 128 does not divide them), which is
            the one of 16 that leaves the smallest squared error; activations stay as they are

Embeddings, head, norms and biases stay as they are. Knows nothing of whether the result is any good.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import (
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    preset_name_to_scheme,
)
from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors import safe_open

from tunewright.chassis.errors import Refused
from tunewright.merger.dequantized import quantized_layers
from tunewright.merger.headers import TensorInfo, read_headers
from tunewright.merger.safety import read_json
from tunewright.merger.sharding import split_into_files, write_index

_PRESETS = {"fp8": ("FP8_DYNAMIC", "float-quantized"), "int4": ("W4A16", "pack-quantized")}
_GROUPS = (128, 64, 32)
_SHRINKS = 16
"""Scales tried for a group of INT4: from that of its largest value down to half of it."""
_NAMES = {torch.float8_e4m3fn: "F8_E4M3", torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32",
          torch.int32: "I32", torch.int64: "I64"}  # fmt: skip


@dataclass(frozen=True)
class Compression:
    """How a model's linear layers are compressed."""

    format: str
    """fp8 or int4."""
    layers: frozenset[str]
    """Names of the weights that are compressed."""
    kept: tuple[str, ...]
    """Names of the linear layers that are not."""
    group_size: int | None

    @classmethod
    def of(cls, folder: Path, format_: str) -> "Compression":
        """Return how the model in a folder is compressed.

        Raises:
            Refused: it stores its layers otherwise than transformers names them, or no group size divides their inputs.
        """
        shapes = {tensor.name: tensor.shape for tensor in read_headers(folder)}
        layers = quantized_layers(folder)
        if wrong := sorted(name for name, transposed in layers.items() if transposed or name not in shapes):
            raise Refused(f"{wrong[0]} is stored in a form that is not compressed", remedy="Export it as gguf or bf16.")
        inputs = {shapes[name][1] for name in layers}
        group = next((size for size in _GROUPS if all(count % size == 0 for count in inputs)), None)
        if format_ == "int4" and group is None:
            raise Refused(
                f"layers with {sorted(inputs)} inputs cannot be divided into groups of 128, 64 or 32",
                remedy="Export the model as fp8.",
            )
        return cls(format_, frozenset(layers), ("lm_head",), group if format_ == "int4" else None)

    @cached_property
    def scheme(self) -> QuantizationScheme:
        """The library's own preset, with our group size."""
        scheme = preset_name_to_scheme(_PRESETS[self.format][0], ["Linear"])
        if self.group_size is not None and scheme.weights is not None:
            scheme.weights.group_size = self.group_size
        return scheme

    def config(self) -> dict[str, Any]:
        """Return `quantization_config` for the model's config.json."""
        config = QuantizationConfig(
            config_groups={"group_0": self.scheme},
            ignore=list(self.kept),
            format=_PRESETS[self.format][1],
            quantization_status=QuantizationStatus.COMPRESSED,
        )
        document: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
        return document

    def compress(self, name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what stands for a tensor in the compressed model: itself, or packed values and scales."""
        if name not in self.layers:
            return {name: weight}
        arguments = self.scheme.weights
        if arguments is None:
            raise RuntimeError("the presets quantise weights")
        groups = weight.float() if self.group_size is None else weight.float().reshape(len(weight), -1, self.group_size)
        low, high = groups.amin(-1), groups.amax(-1)
        if self.group_size is None:
            low, high = low.unsqueeze(-1), high.unsqueeze(-1)
        scale, zero = calculate_qparams(low, high, arguments)
        if self.group_size is not None:
            scale = _best_scale(weight.float(), scale, zero, arguments)
        compressor = BaseCompressor.get_value_from_registry(_PRESETS[self.format][1])
        state = {"weight": weight, "weight_scale": scale.to(weight.dtype), "weight_zero_point": zero}
        found: Mapping[str, torch.Tensor] = compressor.compress(state, self.scheme)
        prefix = name.removesuffix("weight")
        return {prefix + part: tensor.contiguous() for part, tensor in sorted(found.items())}


def write_compressed(model: Path, output_dir: Path, compression: Compression, max_shard_bytes: int) -> None:
    """Write the weights, index and config of a compressed model; one tensor is in memory at a time."""
    planned = list(_planned(model, compression))
    shards = split_into_files(planned, max_shard_bytes)
    tensors = _compressed(model, compression)
    for shard in shards:
        partial = output_dir / f"{shard.name}.partial"
        with partial.open("wb") as file:
            file.write(shard.header)
            for expected in shard.tensors:
                name, tensor = next(tensors)
                if (name, tuple(tensor.shape), _NAMES[tensor.dtype]) != (expected.name, expected.shape, expected.dtype):
                    raise RuntimeError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, {expected} was planned")
                file.write(_bytes(tensor))
        partial.replace(output_dir / shard.name)
    write_index(output_dir, shards)
    config = {**read_json(model / "config.json"), "quantization_config": compression.config()}
    (output_dir / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _planned(model: Path, compression: Compression) -> Iterator[TensorInfo]:
    """Yield name, dtype and shape of every tensor of the compressed model, found by compressing empty ones."""
    dtypes = {name: dtype for dtype, name in _NAMES.items()}
    for info in sorted(read_headers(model), key=lambda tensor: tensor.name):
        if info.name not in compression.layers:
            yield info
            continue
        outputs, inputs = info.shape
        scale = TensorInfo(f"{info.name}_scale", info.dtype, (outputs, 1), 0, info.file, 0)
        if compression.group_size is None:
            parts = [TensorInfo(info.name, "F8_E4M3", info.shape, 0, info.file, 0), scale]
        else:
            groups = TensorInfo(scale.name, info.dtype, (outputs, inputs // compression.group_size), 0, info.file, 0)
            packed = TensorInfo(f"{info.name}_packed", "I32", (outputs, inputs // 8), 0, info.file, 0)
            parts = [packed, groups, TensorInfo(f"{info.name}_shape", "I64", (2,), 0, info.file, 0)]
        for part in parts:
            count = torch.Size(part.shape).numel() * dtypes[part.dtype].itemsize
            yield TensorInfo(part.name, part.dtype, part.shape, count, part.file, 0)


def _compressed(model: Path, compression: Compression) -> Iterator[tuple[str, torch.Tensor]]:
    for info in sorted(read_headers(model), key=lambda tensor: tensor.name):
        with safe_open(str(info.file), framework="pt") as file:
            yield from compression.compress(info.name, file.get_tensor(info.name)).items()


def _best_scale(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, arguments: Any) -> torch.Tensor:  # noqa: ANN401 - the library's
    """Return for each group the scale of least squared error among those down to half of the largest value's."""
    best, least = scale, torch.full_like(scale, torch.inf)
    size = weight.shape[1] // scale.shape[1]
    for step in range(_SHRINKS):
        tried = scale * (1 - 0.5 * step / _SHRINKS)
        values = dequantize(quantize(weight, tried, zero, arguments), tried, zero, arguments)
        error = (values - weight).square().reshape(len(weight), -1, size).sum(-1)
        best, least = torch.where(error < least, tried, best), torch.minimum(error, least)
    return best


def _bytes(tensor: torch.Tensor) -> Any:  # noqa: ANN401 - a buffer
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
