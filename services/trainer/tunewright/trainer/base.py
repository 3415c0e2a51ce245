"""The base model and its tokenizer, loaded from local files: safetensors only, no remote code, on any device.

Knows nothing of adapters and rows.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tunewright.artifacts import IntegrityError, Manifest
from tunewright.chassis.errors import InvalidData, OutOfResources, Refused
from tunewright.chassis.stage import Reporter, Severity
from tunewright.trainer.device import Device
from tunewright.trainer.spec import TrainingSpec

# Tokens that models reserve for padding, in order of preference; none is ever added, as that would grow the embeddings.
_PAD_CANDIDATES = (
    "<|finetune_right_pad_id|>",
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<unk>",
)
_PIECE, _PIECES = 64 * 1024, 4
# Ends of an assistant's turn in the chat templates of the field.
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|end_of_turn|>", "</s>")


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """What the base is called in manifests and adapters."""

    name: str
    revision: str | None


def check_base(directory: Path) -> None:
    """Look at the base's files before anything is loaded.

    Raises:
        InvalidData: no model folder.
        Refused: quantised, without safetensors, or a model that needs code of its own.
    """
    config = _read_config(directory)
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown method")
        raise Refused(
            f"the base is quantised already ({method}); adapters are trained against full-precision weights",
            remedy="Import the full-precision model; the trainer quantises it to NF4 itself.",
        )
    if not any(directory.glob("*.safetensors")):
        others = sorted(path.name for path in directory.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".gguf"})
        found = f"; it holds {', '.join(others)}" if others else ""
        raise Refused(
            f"the base has no safetensors{found}: pickled weights run code when they are loaded",
            remedy="Convert the model to safetensors and import it again.",
        )
    code = config.get("auto_map")
    if code:
        raise Refused(
            f"the base asks for code of its own ({', '.join(sorted(map(str, code)))}), which never runs here",
            remedy="Take a model whose architecture is part of transformers.",
        )


def base_identity(directory: Path, runtime: Mapping[str, Any]) -> BaseIdentity:
    """Return what the base is called: by the manifest that came with it, else by its folder; never a path."""
    for document in (_given_manifest(runtime), _manifest_in(directory)):
        if document is not None and document.base_model:
            return BaseIdentity(document.base_model, document.base_revision)
    return BaseIdentity(directory.resolve().name, None)


def weights_fingerprint(directory: Path) -> str:
    """Return a SHA-256 that tells one base from another: of its config, and of each file's size and pieces.

    The pieces are the header and 64 KiB at four places: enough to tell trainings of one model apart, in milliseconds.
    """
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for quarter in range(_PIECES + 1):
                file.seek(max(0, (size - _PIECE) * quarter // _PIECES))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()


def load_tokenizer(directory: Path, report: Reporter) -> Any:  # noqa: ANN401 - transformers ships no types
    """Return the base's own tokenizer, with a chat template and a pad token that ends no turn.

    Raises:
        InvalidData: no tokenizer, or no chat template.
        Refused: no token can serve as padding.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InvalidData(f"the base's tokenizer does not load: {error}") from error
    if not tokenizer.chat_template:
        raise InvalidData(
            "the base has no chat template, so nobody can say what a conversation looks like to it",
            remedy="Take an instruction-tuned base, or put a chat_template.jinja into the model's folder.",
        )
    if not tokenizer.is_fast:
        raise Refused("the base's tokenizer is a slow one, which cannot say where a token lies in its text")
    _choose_pad(tokenizer, report)
    return tokenizer


def end_token_ids(tokenizer: Any, directory: Path) -> set[int]:  # noqa: ANN401
    """Return all tokens that end a turn: those that serving stops at, and the known turn ends in the vocabulary."""
    path = directory / "generation_config.json"
    listed = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
    served = listed if isinstance(listed, list) else [listed]
    vocabulary = tokenizer.get_vocab()
    known = [vocabulary.get(text) for text in TURN_ENDS if text in tokenizer.all_special_tokens]
    return {token for token in (tokenizer.eos_token_id, *served, *known) if token is not None}


def load_base(
    directory: Path, spec: TrainingSpec, device: Device, *, on_host: bool = False
) -> tuple[Any, dict[str, Any] | None]:
    """Return the frozen base as the method needs it, and the quantisation's settings if it is quantised.

    `on_host`: it is loaded into host memory, for the fast path to bring to the device what it needs there.

    NF4 for QLoRA; float32 for full training, since updates below 1/256 of a weight are lost in bf16; else the compute
    type.

    Raises:
        InvalidData: the weights do not load.
        OutOfResources: the device is too small.
    """
    settings = _nf4(spec, device) if spec.method == "qlora" else None
    quantized = {"quantization_config": BitsAndBytesConfig(**settings)} if settings else {}  # type: ignore[no-untyped-call] # transformers' own
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            **quantized,
            dtype=torch.float32 if spec.method == "full" else device.compute_dtype,
            device_map={"": "cpu"} if on_host else device.device_map,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except RuntimeError as error:
        if "out of memory" in str(error):
            raise OutOfResources(f"the base does not fit on {device.name}: {error}") from error
        raise InvalidData(f"the base does not load: {error}") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InvalidData(f"the base does not load: {error}") from error
    model.requires_grad_(requires_grad=False)
    if settings:
        _keep_training_layout(model)
    return model, quantization(spec, device)


def quantization(spec: TrainingSpec, device: Device) -> dict[str, Any] | None:
    """Return the settings under which the base is quantised, for manifests; None if it is not."""
    return {"quant_method": "bitsandbytes", **_nf4(spec, device)} if spec.method == "qlora" else None


def _nf4(spec: TrainingSpec, device: Device) -> dict[str, Any]:
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": spec.bnb_4bit_use_double_quant,
        "bnb_4bit_compute_dtype": str(device.compute_dtype).removeprefix("torch."),
    }


def _keep_training_layout(model: Any) -> None:  # noqa: ANN401
    """Stop bitsandbytes from repacking weights at the first evaluation.

    On CPUs with AVX512_BF16, bitsandbytes 0.50.2 repacks each 4-bit layer in place at its first forward pass without
    gradients (`nn/modules.py`, `Linear4bit.forward`). The repacked layer rounds its constants to bf16 and its product
    carries no gradient (`autograd/_functions.py`, `matmul_4bit`), so training after an evaluation would go on with
    other weights and without the gradient through the base.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _choose_pad(tokenizer: Any, report: Reporter) -> None:  # noqa: ANN401
    ends = {tokenizer.eos_token, *TURN_ENDS}
    if tokenizer.pad_token is not None and tokenizer.pad_token not in ends:
        return
    vocabulary = tokenizer.get_vocab()
    reserved = sorted(text for text in vocabulary if text.startswith("<|reserved_special_token"))
    free = [text for text in (*_PAD_CANDIDATES, *reserved) if text in vocabulary and text not in ends]
    if not free:
        raise Refused(
            "no token of the base can serve as padding: all special tokens end a turn",
            remedy="Name a pad_token in the base's tokenizer_config.json that is not its eos_token.",
        )
    before = tokenizer.pad_token
    tokenizer.pad_token = free[0]
    report.event(
        "pad_token",
        f"padding with {free[0]!r}, as the base's own pad token ({before!r}) is missing or ends a turn",
        severity=Severity.WARNING,
        pad_token=free[0],
    )


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    if not path.is_file():
        raise InvalidData("the base has no config.json: it is no model folder")
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidData(f"the base's config.json is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidData("the base's config.json is no object")
    return document


def _given_manifest(runtime: Mapping[str, Any]) -> Manifest | None:
    document = runtime.get("manifests", {}).get("base")
    return Manifest.model_validate(document) if document else None


def _manifest_in(directory: Path) -> Manifest | None:
    try:
        return Manifest.from_json((directory / "manifest.json").read_bytes())
    except (OSError, IntegrityError):
        return None
