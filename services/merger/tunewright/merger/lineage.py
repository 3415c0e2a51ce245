"""Where an adapter comes from: its manifest names the base it was trained on, and the settings of its training.

Cheap: manifests and one small JSON file. The service asks before queueing, the stage asks again with the files in hand.
Knows nothing of tensors, and does not import torch.
"""

from collections.abc import Mapping
from typing import Any

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidSpec, Refused
from tunewright.merger.adapter_config import AdapterConfig

_KINDS = {"adapter": Kind.ADAPTER, "base": Kind.MODEL, "dataset": Kind.DATASET}


def manifests_of(runtime: Mapping[str, Any]) -> dict[str, Manifest]:
    """Return the manifests of the inputs by name; empty when the stage runs alone on plain folders."""
    return {name: Manifest.model_validate(document) for name, document in runtime.get("manifests", {}).items()}


def check_lineage(manifests: Mapping[str, Manifest]) -> None:
    """Refuse an adapter that was trained on another base than the one given.

    Raises:
        InvalidSpec: an input is of the wrong kind.
        Refused: the adapter's manifest names another base, or the base is quantised.
    """
    for name, manifest in manifests.items():
        if manifest.kind is not _KINDS[name]:
            raise InvalidSpec(f"{name} must be one of {_KINDS[name].value}, {manifest.ref} is not")
    adapter, base = manifests["adapter"], manifests["base"]
    trained_on, given = adapter.parents.get("base"), str(base.ref)
    if trained_on != given:
        raise Refused(
            f"wrong base: the adapter was trained on {trained_on or 'a base its manifest does not name'} "
            f"({adapter.base_model}), not on {given} ({base.base_model})",
            remedy=f"Merge it into {trained_on}.",
        )


def check_settings(config: AdapterConfig, adapter: Manifest) -> None:
    """Refuse an adapter whose own settings differ from those that its manifest says it was trained with.

    Raises:
        Refused: rank, alpha, rsLoRA or DoRA differ; a wrong alpha scales everything that was learned.
    """
    names = {
        "lora_r": config.r,
        "lora_alpha": config.lora_alpha,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }
    for name, found in names.items():
        trained = adapter.spec.get(name)
        if trained is not None and trained != found:
            raise Refused(
                f"adapter_config.json says {name}={found}, the adapter was trained with {trained}",
                remedy="The adapter's files were changed after training: take the artifact as the trainer made it.",
            )
