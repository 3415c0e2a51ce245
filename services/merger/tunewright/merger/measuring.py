"""All candidates measured on the same probes, one model in memory at a time. Knows no manifests and no rule.

The order: unmerged on what training saw, unmerged on the base itself, then each merged folder.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunewright.merger.candidates import DEQUANTIZED, FULL_PRECISION, UNMERGED, Measured
from tunewright.merger.comparison import Logits, Machine, plain_model, unmerged_model
from tunewright.merger.golden import GoldenAgreement, GoldenPrompt, replay
from tunewright.merger.noise import delta_norms, ratios
from tunewright.merger.probes import Probe
from tunewright.merger.quantization import Quantization


@dataclass(slots=True)
class Found:
    """What the measurements gave."""

    candidates: dict[str, Measured] = field(default_factory=dict)
    trained_eval_loss: float | None = None
    repeated: GoldenAgreement | None = None
    """What the model as trained repeats of the trainer's record; None without a record."""
    plain: GoldenAgreement | None = None
    """What the base repeats of it without the adapter."""
    noise: dict[str, float] = field(default_factory=dict)
    """Layer → error of quantisation in units of what the adapter adds; empty if the base was not quantised."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured, and how."""

    base: Path
    adapter: Path
    quantization: Quantization | None
    machine: Machine
    probes: list[Probe]
    golden: list[GoldenPrompt]
    check_golden: Callable[[GoldenAgreement, GoldenAgreement], None]
    """Raises if what is repeated of the record says that this is another model."""
    on_probe: Callable[[], None]

    def run(self, merged: Mapping[str, Path]) -> Found:
        """Return the figures of the candidates in the folders of `merged`, and of the unmerged adapter."""
        found = Found()
        with ExitStack() as stack:

            def logits() -> Logits:
                """Return files that are removed at the end."""
                return stack.enter_context(closing(Logits(len(self.probes))))

            trained = logits()
            self._run_trained(trained, found)
            unmerged = trained if self.quantization is None else logits()
            if self.quantization is not None:
                with unmerged_model(self.base, self.adapter, self.machine) as model:
                    unmerged.record(model, self.probes, self.on_probe)
            same_weights = {FULL_PRECISION: unmerged, DEQUANTIZED: trained}
            for name, folder in merged.items():
                mine = logits()
                with plain_model(folder, self.machine) as model:
                    mine.record(model, self.probes, self.on_probe)
                fidelity = mine.against(same_weights[name])
                found.candidates[name] = Measured(mine.against(trained), mine.eval_loss, fidelity)
                mine.close()
            found.candidates[UNMERGED] = Measured(unmerged.against(trained), unmerged.eval_loss)
            found.trained_eval_loss = trained.eval_loss
        return found

    def _run_trained(self, trained: Logits, found: Found) -> None:
        """Run the model as it was trained, and let it repeat the trainer's record."""
        errors: dict[str, float] = {}

        def prepare(model: Any) -> None:  # noqa: ANN401 - transformers ships no types
            """Give the base the weights that training saw."""
            if self.quantization is not None:
                from tunewright.merger.dequantized import quantize_in_place  # noqa: PLC0415 - as in weights.py

                errors.update(quantize_in_place(model, self.quantization))

        with unmerged_model(self.base, self.adapter, self.machine, prepare) as model:
            if self.golden:
                found.repeated = replay(model, self.golden)
                with model.disable_adapter():
                    found.plain = replay(model, self.golden)
                self.check_golden(found.repeated, found.plain)
            found.noise = ratios(errors, delta_norms(model)) if errors else {}
            trained.record(model, self.probes, self.on_probe)
