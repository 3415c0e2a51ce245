"""The adapter's own settings (`adapter_config.json`, PEFT's format): which are merged right, which are refused by name.

Knows nothing of tensors, and does not import torch or peft.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import Refused
from tunewright.merger.safety import read_json

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"

_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")
"""Values of `init_lora_weights` under which training started from a base whose weights were changed."""

_REFUSED_WHEN_SET = {
    "layer_replication": "layers were replicated",
    "megatron_config": "it is a Megatron adapter",
    "trainable_token_indices": "single token embeddings were trained",
    "target_parameters": "bare parameters were targeted",
    "alora_invocation_tokens": "an activated LoRA acts on some tokens only, which no merged weight can",
    "use_qalora": "QALoRA pools its inputs",
    "use_bdlora": "BD-LoRA has block-diagonal factors",
    "arrow_config": "Arrow routes between adapters",
    "velora_config": "VeLoRA changes the factors",
    "monteclora_config": "MonteCLoRA draws its factors",
    "kasa_config": "KaSA changes the base",
    "lora_bias": "lora_bias adds to biases",
}
"""Fields of PEFT's LoraConfig that change the formula in ways this merge does not do; any true value is refused."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What of a LoRA adapter's settings the merged weights depend on."""

    r: int
    lora_alpha: float
    use_rslora: bool
    use_dora: bool
    fan_in_fan_out: bool
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    base_model: str
    """base_model_name_or_path: how the trainer's manifest names the base."""

    def rank(self, module: str) -> int:
        """Return r of a module such as `model.layers.0.mlp.up_proj`."""
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        """Return the factor of B·A: alpha / r, or alpha / sqrt(r) for rsLoRA (https://arxiv.org/abs/2312.03732)."""
        r = self.rank(module)
        return _by_pattern(self.alpha_pattern, module, self.lora_alpha) / (math.sqrt(r) if self.use_rslora else r)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return the settings of the adapter in `folder`.

    Raises:
        Refused: no adapter, not LoRA, or a variant whose merge would not be right; named.
    """
    if not (folder / CONFIG_NAME).is_file() or not (folder / WEIGHTS_NAME).is_file():
        raise Refused(
            f"the adapter folder lacks {CONFIG_NAME} or {WEIGHTS_NAME}", remedy="Name a finished adapter artifact."
        )
    document = read_json(folder / CONFIG_NAME)
    _refuse_variants(document)
    return AdapterConfig(
        r=int(document["r"]),
        lora_alpha=float(document["lora_alpha"]),
        use_rslora=bool(document.get("use_rslora")),
        use_dora=bool(document.get("use_dora")),
        fan_in_fan_out=bool(document.get("fan_in_fan_out")),
        rank_pattern=document.get("rank_pattern") or {},
        alpha_pattern=document.get("alpha_pattern") or {},
        base_model=str(document.get("base_model_name_or_path") or ""),
    )


def _refuse_variants(document: dict[str, Any]) -> None:
    kind = document.get("peft_type")
    if kind != "LORA":
        raise Refused(f"the adapter is of type {kind}; only LORA can be merged", remedy="Serve it unmerged.")
    if document.get("bias", "none") != "none":
        raise Refused(f"the adapter trained biases (bias={document['bias']!r}), which are not merged", remedy=_UNMERGED)
    for field, why in _REFUSED_WHEN_SET.items():
        if document.get(field):
            raise Refused(f"the adapter sets {field}: {why}, which is not merged", remedy=_UNMERGED)
    start = document.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(_CHANGES_THE_BASE):
        raise Refused(
            f"the adapter was initialised by {start}, which changes the base's weights; merging it into the plain base "
            "would be wrong",
            remedy="Convert it first: save_pretrained(…, path_initial_model_for_weight_conversion=…).",
        )


_UNMERGED = "Serve the adapter unmerged on its base."


def _by_pattern(pattern: dict[str, float] | dict[str, int], module: str, default: float) -> float:
    """Return the value whose key matches the module's whole name or its end, as PEFT's get_pattern_key does."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
