"""Looks at a model or adapter folder before an engine is started: damage costs milliseconds here, half a minute there.

Format of safetensors: 8 bytes little-endian length n, n bytes of JSON, then the data
(https://github.com/huggingface/safetensors#format). Imports no torch, loads no tensor.
"""

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import Refused

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000
_INDEX = "model.safetensors.index.json"
USUAL_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""What adapters act on in nearly all cases."""
_REMEDY = "Run the stage that made it again, and deploy its result."


def check_model(folder: Path) -> int:
    """Return the bytes of a model's weights.

    Raises:
        Refused: no config, no safetensors, a damaged or missing file, or code that would have to be run.
    """
    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise Refused(
            "the model wants code from its own folder to be run (auto_map in config.json), which is never done",
            remedy="Use a model whose architecture vLLM knows.",
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Refused(
            "the model holds no *.safetensors file", remedy="Only safetensors weights are served, no pickles."
        )
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX).get("weight_map", {})
        if missing := sorted(set(index.values()) - {path.name for path in files}):
            raise Refused(f"the model's index names files that are not there: {', '.join(missing)}", remedy=_REMEDY)
    for path in files:
        check_safetensors(path)
    return sum(path.stat().st_size for path in files)


def adaptable(folder: Path, needed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modules of a model that adapters may act on: those needed, and the usual ones that it has."""
    found = {name.removesuffix(".weight").rpartition(".")[2] for name in _tensor_names(folder)}
    return tuple(sorted({*needed, *(name for name in USUAL_MODULES if name in found)}))


def _tensor_names(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.safetensors")):
        yield from check_safetensors(path)


def adapter_rank(folder: Path) -> int:
    """Return the highest rank in an adapter's matrices, after looking whether vLLM can serve it.

    Raises:
        Refused: not LoRA, DoRA, whole modules beside the matrices, or damaged.
    """
    config = read_json(folder / "adapter_config.json")
    check_safetensors(folder / "adapter_model.safetensors")
    kind, merge = config.get("peft_type"), "Merge the adapter into its base and deploy the merged model."
    if kind != "LORA":
        raise Refused(f"the adapter is of type {kind}; vLLM serves LORA only", remedy=merge)
    for field in ("use_dora", "modules_to_save"):
        if config.get(field):
            raise Refused(f"the adapter uses {field}, which vLLM cannot serve unmerged", remedy=merge)
    return max([int(config["r"]), *(int(rank) for rank in (config.get("rank_pattern") or {}).values())])


def adapter_modules(folder: Path) -> tuple[str, ...]:
    """Return the last parts of the names of the modules an adapter acts on, in order, such as q_proj.

    Raises:
        Refused: damaged, or no LoRA matrices in it.
    """
    header = check_safetensors(folder / "adapter_model.safetensors")
    names = {name.partition(".lora_")[0].rpartition(".")[2] for name in header if ".lora_" in name}
    if not names:
        raise Refused("adapter_model.safetensors holds no LoRA matrices", remedy=_REMEDY)
    return tuple(sorted(names))


def write_zero_adapter(folder: Path, target: Path) -> None:
    """Write a copy of an adapter whose matrices are all zero: the base's answers, as an adapter.

    Raises:
        Refused: the adapter is damaged.
    """
    name = "adapter_model.safetensors"
    check_safetensors(folder / name)
    target.mkdir(parents=True)
    shutil.copy(folder / "adapter_config.json", target)
    with (folder / name).open("rb") as source, (target / name).open("wb") as copy:
        length = source.read(_LENGTH.size)
        copy.write(length + source.read(_LENGTH.unpack(length)[0]))
        copy.truncate((folder / name).stat().st_size)  # what was not written reads as zeros


def check_safetensors(path: Path) -> dict[str, Any]:
    """Compare a file's size with what its header promises; return the header.

    Raises:
        Refused: missing, no safetensors, or cut short.
    """
    try:
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            header = json.loads(file.read(min(length, _MAX_HEADER_BYTES)))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise Refused(f"{path.name} is not a readable safetensors file: {error}", remedy=_REMEDY) from error
    expected, found = _LENGTH.size + length + end, path.stat().st_size
    if found != expected:
        raise Refused(f"{path.name} is damaged: {found} bytes, its header promises {expected}", remedy=_REMEDY)
    return dict(header)


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        Refused: missing or malformed.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path.name} cannot be read: {error}", remedy=_REMEDY) from error
    if not isinstance(found, dict):
        raise Refused(f"{path.name} holds no JSON object", remedy=_REMEDY)
    return found
