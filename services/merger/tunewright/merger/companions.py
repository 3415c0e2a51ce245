"""What travels beside the weights: tokenizer, template, configs, licence, golden record, and where answers stop.

Knows nothing of tensors.
"""

import json
import shutil
from pathlib import Path

from tunewright.merger.golden import GOLDEN
from tunewright.merger.safety import COMPANIONS, TOKENIZER_FILES, read_json

_GENERATION = "generation_config.json"


def copy_companions(base: Path, adapter: Path, output_dir: Path) -> None:
    """Copy the tokenizer that was trained with, from the adapter, and everything else from the base."""
    from_adapter = {name for name in COMPANIONS if (adapter / name).is_file() and name != "config.json"}
    has_tokenizer = bool(from_adapter & set(TOKENIZER_FILES))
    for name in COMPANIONS:
        source = adapter if has_tokenizer and name in from_adapter else base
        if (source / name).is_file():
            shutil.copyfile(source / name, output_dir / name)
    if (adapter / GOLDEN).is_file():
        shutil.copyfile(adapter / GOLDEN, output_dir / GOLDEN)


def add_end_tokens(output_dir: Path) -> list[int]:
    """Let the model stop where it was taught to, whatever the base's generation config says; return what was added.

    The golden record names the end tokens of training. A base may end on `<|endoftext|>` only, while its chat template
    ends turns with another token: served so, it would talk on after its answer.
    """
    golden = output_dir / GOLDEN
    taught = read_json(golden).get("end_token_ids", []) if golden.is_file() else []
    path = output_dir / _GENERATION
    document = read_json(path) if path.is_file() else {}
    known = document.get("eos_token_id")
    if known is None:
        known = read_json(output_dir / "config.json").get("eos_token_id") or []
    ends = known if isinstance(known, list) else [known]
    added = sorted(set(taught) - set(ends))
    if added:
        document["eos_token_id"] = [*ends, *added]
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", "utf-8")
    return added
