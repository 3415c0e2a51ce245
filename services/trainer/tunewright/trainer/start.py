"""Going on from an adapter of an earlier training: which adapters a run can go on from. Imports no torch.

The same adapter is trained further: its weights are the run's first ones, rows, rate and schedule are the run's own.
What the adapter was trained towards stays in it, so DPO holds to it, not to the base (`loop.py`).
"""

from collections.abc import Mapping
from typing import Any

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.trainer.spec import TrainingSpec

SHAPE = ("method", "lora_r", "lora_alpha", "target_modules", "use_dora", "use_rslora", "modules_to_save")
"""Settings that a run must have in common with the adapter that it goes on from."""


def check_start(spec: TrainingSpec, trained: Mapping[str, Any] | None) -> None:
    """Look whether a run can go on from an adapter.

    Args:
        spec: of the run.
        trained: settings that the adapter was trained with, by field of the spec; None if they are not known.

    Raises:
        InvalidSpec: the method trains no adapter, or a setting differs from the adapter's.
    """
    violations = []
    if not spec.has_adapters:
        violations.append(Violation("method", f"only qlora and lora go on from an adapter, this is {spec.method}"))
    if spec.search.lora_r:
        violations.append(Violation("search.lora_r", "an adapter that is trained further has its rank already"))
    own = spec.canonical()
    violations += [
        Violation(name, f"the adapter to go on from has {trained[name]}, this is {own[name]}; they must be the same")
        for name in SHAPE
        if trained is not None and name in trained and trained[name] != own[name]
    ]
    if violations:
        raise InvalidSpec(
            f"{violations[0].field}: {violations[0].description}",
            remedy="Give the same settings as before, or merge the adapter and train a fresh one on the merged model.",
            violations=violations,
        )
