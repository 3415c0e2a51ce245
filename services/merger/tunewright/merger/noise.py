"""How large the error of quantisation is beside what was learned, layer by layer. Knows nothing of files and probes.

Where ‖quantised base − base‖ is larger than ‖Δ‖, an adapter that learned around that error loses its footing on other
weights: that is when merging into full precision and into dequantised weights differ.
"""

from collections.abc import Mapping
from typing import Any

import torch


@torch.no_grad()
def delta_norms(model: Any) -> dict[str, float]:  # noqa: ANN401 - PEFT ships no types
    """Return ‖W' − W‖, the Frobenius norm, of each layer with an adapter in an unmerged PEFT model."""
    norms = {}
    for name, module in model.base_model.model.named_modules():
        if "default" not in getattr(module, "lora_A", {}):
            continue
        weight = module.get_base_layer().weight.data.float()
        change = module.get_delta_weight("default").float()
        if "default" in module.lora_magnitude_vector:
            merged = weight + change
            dim = 0 if module.fan_in_fan_out else 1
            magnitude = module.lora_magnitude_vector["default"].weight.float().flatten().unsqueeze(dim)
            change = merged * (magnitude / torch.linalg.vector_norm(merged, dim=dim, keepdim=True)) - weight
        norms[name] = float(torch.linalg.vector_norm(change))
    return norms


def ratios(errors: Mapping[str, float], deltas: Mapping[str, float]) -> dict[str, float]:
    """Return each layer's error of quantisation in units of its Δ; layers whose Δ is nothing are left out.

    Args:
        errors: layer → norm of the error.
        deltas: layer → norm of what the adapter adds.
    """
    return {name: errors[name] / delta for name, delta in deltas.items() if name in errors and delta > 0}
