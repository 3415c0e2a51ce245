"""Merged weights, tensor by tensor: W' = W + scaling · B·A in fp32, rounded once to the base's dtype.

Streams: one base tensor is in memory at a time, and every shard is written front to back behind a header made from the
plan. DoRA (https://arxiv.org/abs/2402.09353): W' = m · V / ‖V‖ with V = W + scaling · B·A, norms over each output's
row, as PEFT merges it. Knows nothing of where folders come from, nor whether the result is any good (`comparison.py`).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tunewright.chassis.errors import Refused
from tunewright.merger.headers import INDEX_NAME, SINGLE_NAME, TensorInfo, header_bytes
from tunewright.merger.plan import LowRank, MergePlan, Replacement


def write_merged(
    plan: MergePlan, output_dir: Path, max_shard_bytes: int, on_tensor: Callable[[int, int], None]
) -> list[Path]:
    """Write the merged model's safetensors files (and index, if more than one) and return their paths.

    Args:
        plan: what happens to each tensor.
        output_dir: where the files appear, each one complete or not at all.
        max_shard_bytes: bytes of tensors in a file at most.
        on_tensor: called after each tensor with (tensors done, tensors in all).

    Raises:
        Refused: the result holds NaN or infinity.
    """
    shards = split_into_shards(plan.tensors, max_shard_bytes)
    names = shard_names(len(shards))
    done = 0
    with _open_tensors() as read:
        for name, shard in zip(names, shards, strict=True):
            partial = output_dir / f"{name}.partial"
            with partial.open("wb") as file:
                file.write(header_bytes([(t.name, t.dtype, t.shape, t.size_bytes) for t in shard]))
                for tensor in shard:
                    file.write(_bytes(merged_tensor(tensor, plan, read)))
                    done += 1
                    on_tensor(done, len(plan.tensors))
            partial.replace(output_dir / name)
    if len(shards) > 1:
        _write_index(output_dir, names, shards)
    return [output_dir / name for name in names]


def merged_tensor(tensor: TensorInfo, plan: MergePlan, read: Callable[[Path, str], torch.Tensor]) -> torch.Tensor:
    """Return one tensor of the merged model, shaped and typed as in the base.

    Raises:
        Refused: it holds NaN or infinity.
    """
    weight = read(tensor.file, tensor.name)
    change = plan.changes.get(tensor.name)
    if change is None:
        return weight
    if isinstance(change, Replacement):
        merged = read(plan.adapter_file, change.name).to(weight.dtype)
    else:
        merged = _add_low_rank(weight, change, lambda name: read(plan.adapter_file, name).float())
    if not bool(torch.isfinite(merged).all()):
        raise Refused(
            f"merging made NaN or infinity in {tensor.name}",
            remedy="The adapter is broken or too large for the base's dtype: look at its training loss.",
        )
    return merged


def split_into_shards(tensors: tuple[TensorInfo, ...], max_shard_bytes: int) -> list[list[TensorInfo]]:
    """Return the tensors in their order, cut into runs of at most `max_shard_bytes` each, as Hugging Face cuts them."""
    shards: list[list[TensorInfo]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.size_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.size_bytes
    return shards


def shard_names(count: int) -> list[str]:
    """Return the files' names as Hugging Face spells them."""
    if count == 1:
        return [SINGLE_NAME]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _add_low_rank(weight: torch.Tensor, change: LowRank, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    delta = (read(change.b) @ read(change.a)) * change.scaling
    if change.transpose:
        delta = delta.T
    merged = weight.float() + delta
    if change.magnitude is not None:
        outputs = 1 if change.transpose else 0
        norms = torch.linalg.vector_norm(merged, dim=1 - outputs)
        factor = (read(change.magnitude).flatten() / norms).unsqueeze(1 - outputs)
        merged = merged * factor
    return merged.to(weight.dtype)


def _bytes(tensor: torch.Tensor) -> Any:  # noqa: ANN401 - a buffer; numpy has no bfloat16, so its bytes are viewed
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _write_index(output_dir: Path, names: list[str], shards: list[list[TensorInfo]]) -> None:
    weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(tensor.size_bytes for shard in shards for tensor in shard)
    document = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (output_dir / INDEX_NAME).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", "utf-8")


@contextmanager
def _open_tensors() -> Iterator[Callable[[Path, str], torch.Tensor]]:
    with ExitStack() as stack:
        files: dict[Path, Any] = {}

        def read(path: Path, name: str) -> torch.Tensor:
            if path not in files:
                files[path] = stack.enter_context(safe_open(str(path), framework="pt"))
            tensor: torch.Tensor = files[path].get_tensor(name)
            return tensor

        yield read
