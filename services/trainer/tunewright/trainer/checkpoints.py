"""Checkpoints: everything a killed run needs to go on bit for bit. No pickle in them, and none is read.

    checkpoint-<step>/
      trained.safetensors     trained parameters
      best.safetensors        those of the best evaluation so far, if there was one
      optimizer.safetensors   the optimizer's tensors, named by their path in its state
      rng.safetensors         torch's generators: CPU, and the GPU; of each process
      state.json              the rest: optimizer and schedule figures, Python's and numpy's generators, loss scaler,
                              early stopping, history
      trainer_state.json      transformers' own, JSON too
      checkpoint.json         size and SHA-256 of all of these, written last

transformers would write optimizer.pt, scheduler.pt and rng_state.pth, which are pickles. A checkpoint appears by a
rename, complete. Knows the data only by a fingerprint; the model not at all.
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from tunewright.artifacts import file_sha256
from tunewright.trainer.ranks.group import Group

_SEAL = "checkpoint.json"
_NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One on disk."""

    directory: Path
    step: int

    def tensors(self, name: str) -> Tensors:
        """Return the tensors of `name`.safetensors."""
        return dict(load_file(self.directory / f"{name}.safetensors"))

    def has(self, name: str) -> bool:
        """Return True if there is a `name`.safetensors."""
        return (self.directory / f"{name}.safetensors").is_file()

    def state(self) -> dict[str, Any]:
        """Return the figures beside the tensors."""
        document: dict[str, Any] = json.loads((self.directory / "state.json").read_bytes())
        return document


def write(
    folder: Path, step: int, *, fingerprint: str, tensors: dict[str, Tensors], state: dict[str, Any], trainer_state: str
) -> Checkpoint:
    """Write `folder/checkpoint-<step>` so that it appears complete, in place of an earlier one for that step."""
    partial = folder / f".partial-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, values in tensors.items():
        # Clones: the optimizer's quantisation maps share their memory, which safetensors refuses.
        copies = {key: value.detach().cpu().clone().contiguous() for key, value in sorted(values.items())}
        save_file(copies, partial / f"{name}.safetensors", metadata={"format": "pt"})
    (partial / "state.json").write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
    (partial / "trainer_state.json").write_text(trainer_state, encoding="utf-8")
    _seal(partial, step, fingerprint)
    return _appear(partial, folder / f"checkpoint-{step}", step)


def write_start(folder: Path, fingerprint: str, progress: dict[str, Any]) -> Checkpoint:
    """Write `checkpoint-0`: nothing is trained yet, only figures of the run are known."""
    return write(
        folder, 0, fingerprint=fingerprint, tensors={}, state={"progress": progress}, trainer_state="{}"
    )  # fmt: skip


def write_bundle(folder: Path, number: int, fingerprint: str, parts: Mapping[str, Path]) -> Checkpoint:
    """Write `folder/checkpoint-<number>` of files and folders by their names in it, linked where they are not copied.

    Files that go on being written must not be linked: those that stand alone are copied.
    """
    partial = folder / f".partial-{number}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, source in parts.items():
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.link)
        else:
            shutil.copyfile(source, target)
    _seal(partial, number, fingerprint)
    return _appear(partial, folder / f"checkpoint-{number}", number)


def latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint by number, whole or not; None if there is none."""
    return next(_all(folder), None) if folder.is_dir() else None


def amend(checkpoint: Checkpoint, progress: dict[str, Any]) -> Checkpoint:
    """Replace figures of the run in a checkpoint; it appears anew, complete, and shares no changed file with copies."""
    partial = checkpoint.directory.with_name(f".partial-{checkpoint.step}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in checkpoint.directory.iterdir():
        if path.name not in {"state.json", _SEAL}:
            os.link(path, partial / path.name)
    state = checkpoint.state()
    state["progress"] |= progress
    (partial / "state.json").write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
    seal = json.loads((checkpoint.directory / _SEAL).read_bytes())
    _seal(partial, checkpoint.step, seal["fingerprint"])
    return _appear(partial, checkpoint.directory, checkpoint.step)


def clear(folder: Path) -> None:
    """Remove what is half written and all but the newest checkpoint, for room on the disk."""
    for path in folder.glob(".partial-*"):
        shutil.rmtree(path, ignore_errors=True)
    prune(folder, 1)


def newest(folder: Path, fingerprint: str, tell: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint, by number, that is whole and of this run; `tell` hears why others are not."""
    for checkpoint in _all(folder):
        why = _fault(checkpoint, fingerprint)
        if why is None:
            return checkpoint
        tell(f"{checkpoint.directory.name} is passed over: {why}")
    return None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, by number."""
    for checkpoint in list(_all(folder))[keep:]:
        shutil.rmtree(checkpoint.directory)


def flatten(tree: dict[Any, Any]) -> tuple[Tensors, list[Any]]:
    """Return the tensors of a nested state, and the rest as JSON pairs [path, value]; `unflatten` is the inverse."""
    tensors: Tensors = {}
    rest: list[Any] = []
    for path, value in _leaves(tree, ()):
        if isinstance(value, torch.Tensor):
            tensors[json.dumps(path)] = value
        else:
            rest.append([list(path), value])
    return tensors, rest


def unflatten(tensors: Tensors, rest: list[Any]) -> dict[Any, Any]:
    """Return the nested state."""
    tree: dict[Any, Any] = {}
    for path, value in [*((json.loads(key), tensor) for key, tensor in tensors.items()), *rest]:
        place = tree
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return tree


def generators() -> tuple[Tensors, dict[str, Any]]:
    """Return the state of this process's random generators: torch's as tensors, Python's and numpy's as JSON."""
    tensors = {"cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda:0"] = torch.cuda.get_rng_state()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - what the libraries use
    numbers = {"kind": str(kind), "keys": np.asarray(keys).tolist(), "rest": [position, has_gauss, cached]}
    return tensors, {"python": random.getstate(), "numpy": numbers}


def set_generators(tensors: Tensors, state: dict[str, Any]) -> None:
    """Put all random generators back to what `generators` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    saved = state["numpy"]
    keys = np.array(saved["keys"], dtype=np.uint32)
    np.random.set_state((saved["kind"], keys, *saved["rest"]))  # noqa: NPY002 - likewise
    if "cpu" in tensors:
        torch.random.set_rng_state(tensors["cpu"])
    if "cuda:0" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda:0"])


def of_all_ranks(own: Tensors, group: Group) -> Tensors:
    """Return the generators of all processes: those of rank 0 by their names, of others as `<rank>/<name>`."""
    found = dict(own)
    for name in own if group.size > 1 else ():
        for rank, state in enumerate(group.tensors(own[name])):
            found[f"{rank}/{name}" if rank else name] = state
    return found


def of_rank(all_ranks: Tensors, group: Group) -> Tensors:
    """Return the generators of this process out of those of all; none if fewer processes wrote them."""
    prefix = f"{group.rank}/" if group.rank else ""
    own = ((name.removeprefix(prefix), state) for name, state in all_ranks.items() if name.startswith(prefix))
    return {name: state for name, state in own if "/" not in name}


def _leaves(tree: dict[Any, Any], path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _all(folder: Path) -> Iterator[Checkpoint]:
    named = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir() if path.is_dir())
    found = [Checkpoint(path, int(match[1])) for path, match in named if match]
    yield from sorted(found, key=lambda checkpoint: checkpoint.step, reverse=True)


def _fault(checkpoint: Checkpoint, fingerprint: str) -> str | None:
    """Return why a checkpoint cannot be used, None if it can."""
    try:
        seal = json.loads((checkpoint.directory / _SEAL).read_bytes())
        files = dict(seal["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is incomplete ({error})"
    if seal.get("fingerprint") != fingerprint or seal.get("step") != checkpoint.step:
        return "it belongs to another run: other settings, data or base"
    for name, (size, digest) in files.items():
        path = checkpoint.directory / name
        if not path.is_file() or path.stat().st_size != size or file_sha256(path) != digest:
            return f"{name} is damaged"
    return None


def _seal(partial: Path, step: int, fingerprint: str) -> None:
    found = sorted(path for path in partial.rglob("*") if path.is_file())
    files = {path.relative_to(partial).as_posix(): [path.stat().st_size, file_sha256(path)] for path in found}
    seal = {"step": step, "fingerprint": fingerprint, "files": files}
    (partial / _SEAL).write_text(json.dumps(seal, sort_keys=True), encoding="utf-8")


def _appear(partial: Path, target: Path, step: int) -> Checkpoint:
    _flush(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return Checkpoint(target, step)


def _flush(directory: Path) -> None:
    """Bring the files to the disk before the rename makes them a checkpoint."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
