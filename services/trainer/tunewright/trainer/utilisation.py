"""Model FLOPs utilisation: operations that a model's training needs, over what the card could do. Plain arithmetic.

What is computed twice to save memory does not count, nor does padding, so a run that does either has a lower one.
"""

from typing import Any

import torch

from tunewright.trainer.device import Device
from tunewright.trainer.planning.timing import peak_of
from tunewright.trainer.ranks.sharding import Sharded4bit
from tunewright.trainer.spec import TrainingSpec


def operations_a_token(model: Any, spec: TrainingSpec) -> float:  # noqa: ANN401 - transformers ships no types
    """Return multiplications and additions that training needs for a token.

    2 a weight of each linear layer forward, 2 backward, 2 more where the weight itself is trained; for DPO 2 more of
    the reference, unless it is measured before training. Attention's own products are left out: 3 % of Qwen2.5-7B's at
    rows of 2,048 tokens (2 · 2,048 · 3,584 · 28 layers against 2 · 7.07e9).
    """
    reference = 2 * (spec.objective == "dpo" and spec.method != "full")
    return float(
        sum(
            module.in_features * module.out_features * (4 + 2 * module.weight.requires_grad + reference)
            for module in model.modules()
            if isinstance(module, torch.nn.Linear | Sharded4bit)
        )
    )


def utilisation(operations: float, tokens_per_second: float, device: Device, processes: int) -> float | None:
    """Return the share of what the GPUs could do; None on a CPU, a card that is not known, or in float32."""
    peak = peak_of(device.name) if device.type == "cuda" and device.compute_dtype is not torch.float32 else None
    return None if peak is None else operations * tokens_per_second / (peak * processes)
