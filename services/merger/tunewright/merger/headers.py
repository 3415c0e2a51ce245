"""Headers of safetensors files: names, dtypes, shapes and places of tensors, read without loading one.

Format: 8 bytes little-endian length n, n bytes of JSON, then the data
(https://github.com/huggingface/safetensors#format). Knows nothing of models, and does not import torch.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import Refused

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
FLOAT_DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Dtypes of full-precision weights as safetensors spells them, with bytes an element."""

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor in a file."""

    name: str
    dtype: str
    """As safetensors spells it: BF16, F32, U8, …"""
    shape: tuple[int, ...]
    size_bytes: int
    file: Path
    offset: int
    """Where its data begin in the file, bytes."""


def read_header(path: Path) -> list[TensorInfo]:
    """Return the tensors of one safetensors file in the order of their data.

    Raises:
        Refused: the file is no safetensors file, or is cut short.
    """
    try:
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            document = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
        entries = [(name, entry) for name, entry in document.items() if name != "__metadata__"]
        entries.sort(key=lambda item: item[1]["data_offsets"])
        infos = [_info(name, entry, path, _LENGTH.size + length) for name, entry in entries]
        end = max((entry["data_offsets"][1] for _, entry in entries), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise Refused(f"{path.name} is not a safetensors file: {error}", remedy="Fetch the file again.") from error
    expected = _LENGTH.size + length + end
    if path.stat().st_size != expected:
        raise Refused(
            f"{path.name} is damaged: {path.stat().st_size} bytes, its header promises {expected}",
            remedy="Fetch the file again.",
        )
    return infos


def weight_files(folder: Path) -> list[Path]:
    """Return the model's safetensors files: those that the index names, else `model.safetensors`; empty if neither.

    Raises:
        Refused: the index names a file that is not there, or is not JSON.
    """
    index = folder / INDEX_NAME
    if not index.is_file():
        single = folder / SINGLE_NAME
        return [single] if single.is_file() else []
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise Refused(f"{INDEX_NAME} is not an index of weights: {error!r}") from error
    for name in names:
        if "/" in name or not (folder / name).is_file():
            raise Refused(f"{INDEX_NAME} names {name!r}, which is not in the folder", remedy="Fetch the model again.")
    return [folder / name for name in names]


def read_headers(folder: Path) -> list[TensorInfo]:
    """Return all tensors of a model folder, file after file, each in the order of its data.

    Raises:
        Refused: a file is missing or damaged.
    """
    return [info for path in weight_files(folder) for info in read_header(path)]


def header_bytes(tensors: list[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    """Return length and header of a file that holds these (name, dtype, shape, size in bytes) one after the other."""
    document: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape, size_bytes in tensors:
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size_bytes]}
        offset += size_bytes
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    return _LENGTH.pack(len(text)) + text


def _info(name: str, entry: dict[str, Any], path: Path, data_start: int) -> TensorInfo:
    start, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    dtype = str(entry["dtype"])
    if dtype in FLOAT_DTYPES and end - start != math.prod(shape) * FLOAT_DTYPES[dtype]:
        raise ValueError(f"{name} has {end - start} bytes, {dtype} {shape} takes another number")
    return TensorInfo(name, dtype, shape, end - start, path, data_start + start)
