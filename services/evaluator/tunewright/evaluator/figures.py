"""The figures of an evaluation: losses, accuracies, overlaps, each with its interval; and one sentence of verdict.

Knows nothing of endpoints and pages.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from tunewright.evaluator.asking import Answers, RowResult, Sample
from tunewright.evaluator.intervals import Paired, paired

_OVERLAPS = ("exact_match", "token_f1", "rouge_l")


@dataclass(frozen=True, slots=True)
class Figures:
    """Base against tuned."""

    loss: Paired
    """Mean negative log-likelihood of an answer token, nats; every token counts alike."""
    token_accuracy: Paired
    """Share of answer tokens that are the model's first choice, 0 to 1."""
    overlaps: dict[str, Paired]
    """Of the free answers: exact_match, token_f1, rouge_l, 0 to 1, mean over samples; empty without samples."""
    rows: int
    answer_tokens: int


def measure(answers: Answers) -> Figures:
    """Return the figures of everything the models said."""
    results, tokens = answers.results, [float(result.answer_tokens) for result in answers.results]
    return Figures(
        loss=paired([r.base.loss_sum for r in results], [r.tuned.loss_sum for r in results], tokens),
        token_accuracy=paired([r.base.correct for r in results], [r.tuned.correct for r in results], tokens),
        overlaps={name: _overlap(answers.samples, name) for name in _OVERLAPS if answers.samples},
        rows=len(results),
        answer_tokens=sum(result.answer_tokens for result in results),
    )


def perplexity(loss: float) -> float:
    """Return exp(loss), infinite where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def verdict(figures: Figures) -> str:
    """Return what the figures show, in one sentence."""
    difference = figures.loss.difference
    interval = f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}"
    change = f"{figures.loss.base.value:.3f} to {figures.loss.tuned.value:.3f} nats per answer token ({interval})"
    if not figures.loss.shown:
        return f"No difference is shown: held-out loss went from {change}."
    better = difference.value < 0
    return f"The tuned model is {'better' if better else 'worse'}: held-out loss went from {change}."


def metrics(figures: Figures) -> dict[str, Any]:
    """Return the manifest's metrics."""
    found: dict[str, Any] = {
        "base_eval_loss": figures.loss.base.value,
        "tuned_eval_loss": figures.loss.tuned.value,
        "base_perplexity": perplexity(figures.loss.base.value),
        "tuned_perplexity": perplexity(figures.loss.tuned.value),
        "base_token_accuracy": figures.token_accuracy.base.value,
        "tuned_token_accuracy": figures.token_accuracy.tuned.value,
        "eval_loss_difference_low": figures.loss.difference.low,
        "eval_loss_difference_high": figures.loss.difference.high,
        "rows": figures.rows,
        "answer_tokens": figures.answer_tokens,
    }
    for name, pair in figures.overlaps.items():
        found |= {f"base_{name}": pair.base.value, f"tuned_{name}": pair.tuned.value}
    return {name: _finite(value) for name, value in found.items()}


def document(figures: Figures, answers: Answers, names: dict[str, Any]) -> dict[str, Any]:
    """Return report.json: names of what was compared, figures with intervals, every row, every sample."""
    measures = {"loss": figures.loss, "token_accuracy": figures.token_accuracy, **figures.overlaps}
    return {
        "schema_version": 1,
        **names,
        "verdict": verdict(figures),
        "loss_difference_shown": figures.loss.shown,
        "figures": {name: _rounded(asdict(pair)) for name, pair in measures.items()},
        "perplexity": _rounded(
            {"base": perplexity(figures.loss.base.value), "tuned": perplexity(figures.loss.tuned.value)}
        ),
        "row_count": figures.rows,
        "documents": any(result.row.text for result in answers.results),
        "answer_tokens": figures.answer_tokens,
        "rows_too_long": answers.too_long,
        "turns_left_out": sum(result.left_out_turns for result in answers.results),
        "rows": [_row(result) for result in answers.results],
        "samples": [_sample(sample) for sample in answers.samples],
    }


def _overlap(samples: list[Sample], name: str) -> Paired:
    base, tuned = ([getattr(side, name) for side in sides] for sides in _sides(samples))
    return paired(base, tuned, [1.0] * len(samples))


def _sides(samples: list[Sample]) -> tuple[list[Any], list[Any]]:
    return [sample.base for sample in samples], [sample.tuned for sample in samples]


def _row(result: RowResult) -> dict[str, Any]:
    tokens = result.answer_tokens
    question, answer = result.row.asked_and_answered()
    return {
        "id": result.row.id,
        "question": question,
        "answer": answer,
        "answer_tokens": tokens,
        "base_loss": _rounded(result.base.loss_sum / tokens),
        "tuned_loss": _rounded(result.tuned.loss_sum / tokens),
        "base_correct": result.base.correct,
        "tuned_correct": result.tuned.correct,
    }


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.row.id,
        "prompt": sample.row.turns(sample.row.answers[-1]),
        "reference": sample.reference,
        "base_answer": sample.base_answer,
        "tuned_answer": sample.tuned_answer,
        "base": _rounded(asdict(sample.base)),
        "tuned": _rounded(asdict(sample.tuned)),
    }


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON in, JSON out
    """Round to 4 decimals: an engine's batching moves the last bits from run to run."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return _finite(round(value, 4)) if isinstance(value, float) else value


def _finite(value: Any) -> Any:  # noqa: ANN401 - JSON in, JSON out
    """Return None for infinity and NaN, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
