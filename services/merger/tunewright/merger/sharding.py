"""How a model's tensors are divided among files: Hugging Face's names, shard-size rule and index.

Knows nothing of what the tensors hold, and does not import torch.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tunewright.merger.headers import INDEX_NAME, SINGLE_NAME, TensorInfo, header_bytes


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the model to be written."""

    name: str
    tensors: tuple[TensorInfo, ...]
    """In the order of their data."""

    @property
    def header(self) -> bytes:
        """What stands before the data."""
        return header_bytes([(t.name, t.dtype, t.shape, t.size_bytes) for t in self.tensors])

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.size_bytes for tensor in self.tensors)


def lay_out(tensors: Iterable[TensorInfo], max_shard_bytes: int) -> list[Shard]:
    """Return the files of a model with these tensors.

    The base's own division stands where none of its files holds more than `max_shard_bytes`, so that a merged model is
    laid out as the base was saved. Else the tensors are cut, in the base's order, by the rule of
    `huggingface_hub.split_torch_state_dict_into_shards`.
    """
    ordered = list(tensors)
    own = [list(group) for _, group in groupby(ordered, key=lambda tensor: tensor.file)]
    fits = all(len(group) == 1 or _bytes(group) <= max_shard_bytes for group in own)
    return _named(own if fits else split(ordered, max_shard_bytes))


def split_into_files(tensors: Iterable[TensorInfo], max_shard_bytes: int) -> list[Shard]:
    """Return the files of a model whose tensors are cut in the order given, whatever files they come from."""
    return _named(split(tensors, max_shard_bytes))


def split(tensors: Iterable[TensorInfo], max_shard_bytes: int) -> list[list[TensorInfo]]:
    """Return the tensors cut into runs of at most `max_shard_bytes`; a larger tensor gets a file of its own."""
    shards: list[list[TensorInfo]] = []
    current: list[TensorInfo] = []
    for tensor in tensors:
        if tensor.size_bytes > max_shard_bytes:
            shards.append([tensor])
            continue
        if current and _bytes(current) + tensor.size_bytes > max_shard_bytes:
            shards.append(current)
            current = []
        current.append(tensor)
    return [*shards, current] if current else shards


def write_index(folder: Path, shards: list[Shard]) -> None:
    """Write the index that names each tensor's file; a model in one file has none."""
    if len(shards) == 1:
        return
    (folder / INDEX_NAME).write_bytes(index_bytes(shards))


def index_bytes(shards: list[Shard]) -> bytes:
    """Return the index as transformers writes it."""
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    document = {
        "metadata": {"total_parameters": parameters, "total_size": _bytes(tensors)},
        "weight_map": {tensor.name: shard.name for shard in shards for tensor in shard.tensors},
    }
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _named(groups: list[list[TensorInfo]]) -> list[Shard]:
    return [Shard(name, tuple(group)) for name, group in zip(_names(len(groups)), groups, strict=True)]


def _names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE_NAME]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _bytes(tensors: Iterable[TensorInfo]) -> int:
    return sum(tensor.size_bytes for tensor in tensors)
