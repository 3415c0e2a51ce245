"""Which model folders may come in: safetensors only, full precision, no remote code, a tokenizer and a chat template.

Every refusal names what was found. Knows nothing of where the folder came from, and does not import torch.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import Refused
from tunewright.merger.headers import FLOAT_DTYPES, INDEX_NAME, SINGLE_NAME, TensorInfo, read_headers, weight_files

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
CHAT_TEMPLATE = "chat_template.jinja"
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    CHAT_TEMPLATE,
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "NOTICE",
    "NOTICE.txt",
)
"""Files that come in beside the weights. Nothing else does: no code, no pickles, no folders."""


def check_names(names: Iterable[str], source: str) -> None:
    """Refuse a model by the names of its top-level files alone, before a byte is fetched.

    Raises:
        Refused: an adapter, pickle weights only, no weights, no config, or no tokenizer.
    """
    present = set(names)
    if "config.json" not in present:
        what = "is an adapter, not a model" if "adapter_config.json" in present else "has no config.json"
        raise Refused(f"{source} {what}", remedy="Name a base model in Hugging Face's layout.")
    if not present & {INDEX_NAME, SINGLE_NAME}:
        raise _no_safetensors(present, source)
    if not present & set(TOKENIZER_FILES):
        raise Refused(
            f"{source} has no tokenizer ({', '.join(TOKENIZER_FILES)} are looked for)",
            remedy="Save the tokenizer into the folder: tokenizer.save_pretrained(FOLDER).",
        )


def check_configs(config: dict[str, Any], tokenizer_config: dict[str, Any], source: str) -> None:
    """Refuse a model by its two small configs.

    Raises:
        Refused: remote code (`auto_map`) or a quantised model.
    """
    for name, document in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        if document.get("auto_map"):
            raise Refused(
                f"{source} wants to run code of its own (auto_map in {name}: {sorted(document['auto_map'])})",
                remedy="Remote code is never run; take a model of an architecture that transformers knows.",
            )
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "unnamed method") if isinstance(quantization, dict) else quantization
        raise Refused(
            f"{source} is quantised ({method}); merging into quantised weights loses what was trained",
            remedy="Name the full-precision model; training quantises it by itself.",
        )


def check_folder(folder: Path, source: str) -> list[TensorInfo]:
    """Return the tensors of a model folder that is safe and complete.

    Raises:
        Refused: anything of the above, a damaged or quantised weight file, or no chat template.
    """
    check_names((path.name for path in folder.iterdir()), source)
    config = read_json(folder / "config.json")
    check_configs(config, _optional_json(folder / "tokenizer_config.json"), source)
    chat_template(folder, source)
    tensors = read_headers(folder)
    for tensor in tensors:
        if tensor.dtype not in FLOAT_DTYPES:
            raise Refused(
                f"{source} is quantised: tensor {tensor.name} in {tensor.file.name} is {tensor.dtype}",
                remedy="Name the full-precision model; training quantises it by itself.",
            )
    return tensors


def chat_template(folder: Path, source: str) -> str:
    """Return the chat template of a model or adapter folder, from `chat_template.jinja` or its tokenizer_config.json.

    Raises:
        Refused: there is none, as in base models that were never tuned to chat.
    """
    path = folder / CHAT_TEMPLATE
    template = (
        path.read_text("utf-8")
        if path.is_file()
        else _optional_json(folder / "tokenizer_config.json").get("chat_template")
    )
    if isinstance(template, list):  # several named ones; `default` is what chat uses
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if not isinstance(template, str) or not template.strip():
        raise Refused(
            f"{source} has no chat template, so nobody knows how a conversation is written for it",
            remedy=f"Take the instruct or chat version of this model, or put a {CHAT_TEMPLATE} into a local copy below "
            "the import root and name that folder.",
        )
    return template


def model_files(folder: Path) -> list[Path]:
    """Return the files of a checked model folder that go into the artifact, in order of name."""
    index = [folder / INDEX_NAME] if (folder / INDEX_NAME).is_file() else []
    companions = [folder / name for name in COMPANIONS if (folder / name).is_file()]
    return sorted({*weight_files(folder), *index, *companions})


def tokenizer_sha256(folder: Path) -> str | None:
    """Return the SHA-256 of the tokenizer's main file, None if the folder has none."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return None


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        Refused: the file is not a JSON object.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise Refused(f"{path.name} is not JSON: {error}", remedy="Fetch the file again.") from error
    if not isinstance(document, dict):
        raise Refused(f"{path.name} is not a JSON object", remedy="Fetch the file again.")
    return document


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _no_safetensors(names: set[str], source: str) -> Refused:
    pickles = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES))
    found = (
        f"only pickle weights ({', '.join(pickles[:4])}), which can run code when loaded" if pickles else "no weights"
    )
    return Refused(
        f"{source} has {found}; {SINGLE_NAME} or {INDEX_NAME} is needed",
        remedy="Take a revision with safetensors, or convert it: model.save_pretrained(FOLDER).",
    )
