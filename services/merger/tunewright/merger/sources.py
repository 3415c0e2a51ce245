"""Where a base model comes from: a hub, or a folder below the import root. Small looks before anything is moved.

`resolve` tells hub id and folder apart; a folder wins, because it is the nearer one. Knows nothing of jobs and
artifacts, and does not import torch.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tunewright.chassis.errors import InvalidSpec, NotFound, Refused
from tunewright.merger.safety import check_folder, model_files

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
"""Letters, digits, `.`, `_`, `-`, and one slash at most, as on the hub."""

_SAMPLE_BYTES = 4096
_SAMPLES = 256


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on a hub."""

    repo_id: str


@dataclass(frozen=True, slots=True)
class FolderModel:
    """A model in a folder below the import root."""

    path: Path
    """Resolved: absolute, no symbolic links."""


def resolve(source: str, import_root: Path | None) -> HubModel | FolderModel:
    """Return what `source` names.

    Raises:
        InvalidSpec: it can be neither a hub id nor a path.
        NotFound: a path, but no such folder below the import root.
        Refused: a folder outside the import root.
    """
    folder = _folder(source, import_root) if import_root is not None else None
    if folder is not None:
        return FolderModel(folder)
    if HUB_ID.fullmatch(source) and ".." not in source:
        return HubModel(source)
    if import_root is None and source.startswith(("/", ".")):
        raise Refused(
            f"source {source!r} is a folder, but this service has no import root",
            remedy="Start the merger with TUNEWRIGHT_IMPORT_ROOT naming the folder that holds your models.",
        )
    if source.startswith(("/", ".")) or source.count("/") > 1:
        raise NotFound(
            f"no folder {source!r} below the import root", remedy="Check the path; it is looked for there only."
        )
    raise InvalidSpec(f"source {source!r} is neither a hub id (owner/name) nor a folder below the import root")


def folders(import_root: Path) -> list[str]:
    """Return the model folders that may be named: those below the import root, up to two levels deep."""
    found = [*import_root.glob("*/config.json"), *import_root.glob("*/*/config.json")]
    return sorted(str(path.parent.relative_to(import_root)) for path in found)


def fingerprint(folder: Path) -> str:
    """Return what changes when a model folder's files change: SHA-256 over names, sizes and samples, 40 digits.

    Files up to 1 MiB are read whole; of larger ones 256 evenly spaced samples of 4 KiB, so that a folder of 15 GB costs
    a fraction of a second. The artifact's own id hashes every byte.
    """
    return f"folder-{sampled_sha256(model_files(folder))[:40]}"


def sampled_sha256(files: Iterable[Path]) -> str:
    """Return the SHA-256 of files' names, sizes and samples, as `fingerprint` takes them."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for index in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def check_local(folder: Path, source: str, import_root: Path) -> None:
    """Refuse a folder that is not a safe, complete model, or whose files point out of the import root.

    Raises:
        Refused: with what was found.
    """
    root = import_root.resolve()
    for path in folder.iterdir():
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise Refused(
                f"{source}: {path.name} is a symbolic link that leaves the import root",
                remedy="Copy the file into the folder.",
            )
    check_folder(folder, source)


def _folder(source: str, import_root: Path) -> Path | None:
    root = import_root.resolve()
    path = (root / source).resolve()
    if not path.is_relative_to(root):
        raise Refused(
            f"source {source!r} lies outside the import root",
            remedy="Move the model below the import root, and name it relative to that.",
        )
    return path if path.is_dir() and path != root else None
