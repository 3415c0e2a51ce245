"""The ways to merge one adapter, each measured against the model as it was trained, and the rule that picks one.

    trained          base as training had it (quantised, for QLoRA), the adapter unmerged: the reference
    full_precision   the base's own weights + Δ
    dequantized      the weights that training saw (4 bits, dequantised) + Δ; only where the base was quantised
    unmerged         the base's own weights, the adapter beside them: what serving it unmerged gives; not published here

The rule: of the merged ones, the smallest mean KL from `trained` to 3 significant digits; then the lower loss on
held-out answers; then full precision. Knows nothing of how weights are merged or models run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tunewright.chassis.errors import Refused
from tunewright.merger.comparison import Agreement

FULL_PRECISION, DEQUANTIZED, UNMERGED = "full_precision", "dequantized", "unmerged"
_SHOWN = ("mean_kl", "max_kl", "top1_agreement", "eval_loss")


@dataclass(frozen=True, slots=True)
class Measured:
    """One candidate's figures."""

    trained: Agreement
    """Against the model as trained."""
    eval_loss: float | None
    """Mean loss of the held-out answers' tokens, nats."""
    fidelity: Agreement | None = None
    """Of a merged candidate: against the adapter unmerged on the same base, so that rounding is all that differs."""

    def figures(self) -> dict[str, Any]:
        """Return the figures that are shown and kept, to 3 significant digits, losses to 4."""
        figures = {name: rounded(value) for name, value in asdict(self.trained).items()}
        del figures["tokens"], figures["probes"]
        return {**figures, "eval_loss": rounded(self.eval_loss, 4)}


def refuse_what_cannot_be_made(asked: str, *, quantized: bool, known: bool) -> None:
    """Refuse a dequantised merge, before anything is written, where no training in 4 bits is known of.

    Args:
        asked: a candidate's name, or `auto`.
        quantized: the adapter's manifest says that its base was quantised.
        known: the adapter has a manifest.

    Raises:
        Refused: with what is missing.
    """
    if asked != DEQUANTIZED or quantized:
        return
    why = (
        "the adapter was trained on a base in full precision"
        if known
        else "the adapter has no manifest, so how its base was quantised in training is not known"
    )
    raise Refused(
        f"merge: {DEQUANTIZED} is asked for, but {why}", remedy="Set merging.merge to auto or full_precision."
    )


def choose(measured: Mapping[str, Measured], asked: str) -> str:
    """Return the name of the candidate to publish.

    Args:
        measured: candidates by name.
        asked: one of their names, or `auto` for the rule.

    Raises:
        Refused: the one that is asked for was not made.
    """
    merged = [name for name in (FULL_PRECISION, DEQUANTIZED) if name in measured]
    if asked == "auto":
        return min(merged, key=lambda name: _rank(measured[name]))
    if asked not in merged:
        raise Refused(
            f"merge: {asked} is asked for, but it was not made; {', '.join(merged)} was",
            remedy="Set merging.merge to auto or full_precision.",
        )
    return asked


def refuse_a_bad_merge(measured: Mapping[str, Measured], chosen: str, *, max_kl: float, max_trained_kl: float) -> None:
    """Refuse where the chosen candidate is not the model that was trained.

    Args:
        measured: candidates by name.
        chosen: the one to publish.
        max_kl: largest mean KL from the same weights unmerged, nats per token.
        max_trained_kl: largest mean KL from the model as trained.

    Raises:
        Refused: with the table of all candidates.
    """
    found = measured[chosen]
    if found.fidelity is not None and not found.fidelity.mean_kl <= max_kl:  # NaN is refused too
        raise Refused(
            f"the merged model is not base + adapter: mean KL {found.fidelity.mean_kl:.3g} nats/token, "
            f"max_kl allows {max_kl:g}\n{table(measured, chosen)}",
            remedy="Serve the adapter unmerged; if the difference is acceptable to you, raise merging.max_kl.",
        )
    if not found.trained.mean_kl <= max_trained_kl:
        raise Refused(
            f"the merged model ({chosen}) lies {found.trained.mean_kl:.3g} nats/token from the model as trained, "
            f"max_trained_kl allows {max_trained_kl:g}\n{table(measured, chosen)}",
            remedy="Set merging.merge to auto, or serve the adapter unmerged; if the difference is acceptable to you, "
            "raise merging.max_trained_kl.",
        )


def table(measured: Mapping[str, Measured], chosen: str) -> str:
    """Return all candidates as a Markdown table; the chosen one is marked."""
    return figures_table({name: found.figures() for name, found in measured.items()}, chosen)


def figures_table(candidates: Mapping[str, Mapping[str, Any]], chosen: str) -> str:
    """Return the same from the figures that `Measured.figures` gave."""
    lines = ["| candidate | mean KL | worst KL | top-1 agreement | held-out loss |", "|---|---|---|---|---|"]
    for name, figures in candidates.items():
        cells = ["" if figures[column] is None else f"{figures[column]:.4g}" for column in _SHOWN]
        lines.append(f"| {name}{' (chosen)' if name == chosen else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rounded(value: float | None, digits: int = 3) -> float | None:
    """Keep a few significant digits: what a repeated run gives again even where sums are taken in another order."""
    return value if value is None or isinstance(value, int) else float(f"{value:.{digits}g}")


def _rank(found: Measured) -> tuple[float, float]:
    loss = rounded(found.eval_loss, 4)
    kl = rounded(found.trained.mean_kl)
    return (float("inf") if kl is None or kl != kl else kl), (0.0 if loss is None else loss)  # noqa: PLR0124 - NaN
