"""What a run leaves behind: a whole model, tokenizer, golden answers, logs; adapters write themselves.

Knows nothing of training.

Everything with a time in it lies under `logs/`, which does not count for the artifact's identity.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from tunewright.artifacts import file_sha256
from tunewright.trainer.search.page import page


def save_tokenizer(tokenizer: Any, directory: Path) -> dict[str, str]:  # noqa: ANN401 - transformers ships no types
    """Write the tokenizer with its chat_template.jinja; return the hashes that the manifest names."""
    tokenizer.save_pretrained(directory)
    config = directory / "tokenizer_config.json"
    document = json.loads(config.read_bytes())
    for name in ("is_local", "local_files_only", "name_or_path", "_commit_hash"):
        document.pop(name, None)  # how it was loaded, not what it is
    config.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    template = tokenizer.chat_template
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return {
        "tokenizer_sha256": file_sha256(directory / "tokenizer.json"),
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
    }


def save_model(model: Any, base: Path, end_ids: set[int], directory: Path) -> None:  # noqa: ANN401
    """Write the weights in the base's type, with the base's own configs.

    Serving stops at `end_ids` too, whatever the base's generation config says: the model was taught to.
    """
    config = json.loads((base / "config.json").read_bytes())
    word = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    model.to(getattr(torch, word))
    model.save_pretrained(directory, max_shard_size="5GB")
    shutil.copyfile(base / "config.json", directory / "config.json")
    path = base / "generation_config.json"
    generation = json.loads(path.read_bytes()) if path.is_file() else {}
    known = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = known if isinstance(known, list) else [] if known is None else [known]
    generation["eos_token_id"] = [*ends, *sorted(end_ids - set(ends))]
    text = json.dumps(generation, indent=2, sort_keys=True)
    (directory / "generation_config.json").write_text(text + "\n", encoding="utf-8")


def save_golden(golden: dict[str, Any], directory: Path) -> None:
    """Write golden.json."""
    text = json.dumps(golden, sort_keys=True, ensure_ascii=False)
    (directory / "golden.json").write_text(text + "\n", encoding="utf-8")


def save_search(found: dict[str, Any], directory: Path) -> None:
    """Write search.json and search.html: every trial of a search."""
    text = json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False)
    (directory / "search.json").write_text(text + "\n", encoding="utf-8")
    (directory / "search.html").write_text(page(found), encoding="utf-8")


def save_logs(history: Sequence[dict[str, float]], directory: Path) -> None:
    """Write logs/training_log.jsonl and TensorBoard's events: the whole run, whichever processes had a part in it."""
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(entry, sort_keys=True) for entry in history)
    (logs / "training_log.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with SummaryWriter(str(logs / "tensorboard")) as writer:
        for entry in history:
            for name in sorted(entry.keys() - {"step", "time"}):
                writer.add_scalar(name, entry[name], int(entry["step"]), walltime=entry["time"])
