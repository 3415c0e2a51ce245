"""Folders of embedding models below the service's root: found by name, told apart by digest. Loads nothing."""

import hashlib
from pathlib import Path

from tunewright.chassis.errors import InvalidSpec, Violation

_TOKENIZER, _WEIGHTS = "tokenizer.json", "*.safetensors"
_DIGEST_CHUNK = 1 << 20


def find_model(root: str, name: str, digest: str) -> Path:
    """Return the folder of a model below the root.

    Raises:
        InvalidSpec: there is no such folder, it is no model, or not the one that was asked for.
    """
    if not root:
        raise no_model(Path(name), "this service was told of no folder with models; set TUNEWRIGHT_EMBEDDING_ROOT")
    folder = (Path(root) / name).resolve()
    if not folder.is_relative_to(Path(root).resolve()) or not folder.is_dir():
        raise no_model(Path(name), "there is no such folder below TUNEWRIGHT_EMBEDDING_ROOT")
    own = digest_of(folder)
    if digest and digest != own:
        raise no_model(folder, f"its digest is {own}, asked for was {digest}")
    return folder


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of a model's files."""
    found = hashlib.sha256()
    for path in model_files(folder):
        with path.open("rb") as file:
            while chunk := file.read(_DIGEST_CHUNK):
                found.update(chunk)
        found.update(b"\0")
    return found.hexdigest()


def model_files(folder: Path) -> tuple[Path, Path]:
    """Return a model's tokenizer and weights.

    Raises:
        InvalidSpec: one is missing, or there are several.
    """
    tokenizer, weights = folder / _TOKENIZER, sorted(folder.glob(_WEIGHTS))
    if not tokenizer.is_file() or len(weights) != 1:
        raise no_model(folder, f"{_TOKENIZER} and one {_WEIGHTS} are expected")
    return tokenizer, weights[0]


def no_model(folder: Path, why: str) -> InvalidSpec:
    """Return the error that names what is wrong with a model's folder."""
    text = f"{folder.name} is no model of static embeddings: {why}"
    remedy = "Give a folder as model2vec saves it (tokenizer.json, model.safetensors), or leave semantic.model empty."
    return InvalidSpec(f"semantic.model: {text}", remedy=remedy, violations=[Violation("semantic.model", text)])
