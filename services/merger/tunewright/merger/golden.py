"""Golden prompts: what the trained model answered when training ended, and whether base + adapter still answers so.

The comparison of merged and unmerged cannot see an adapter that both sides read wrongly (another base of the same
shape, a changed alpha, swapped layers). The trainer's own record can: base + adapter, run as training had them, repeat
it but for the compute type's rounding. Knows nothing of how the merge was made.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PreTrainedTokenizerBase

from tunewright.chassis.errors import Refused, pydantic_violations
from tunewright.merger.comparison import kl_T, logits_T_V
from tunewright.merger.probes import Conversation, render

GOLDEN = "golden.json"

LEAST_AGREEMENT, LARGEST_KL = 0.3, 0.5
"""What is asked of an adapter without a manifest: its base may have been quantised, and it is run on other weights."""

_KL_MARGIN = 0.01
"""Nats that rounding of the quantised base may cost an adapter that was hardly trained."""


class GoldenPrompt(BaseModel):
    """One prompt of the record."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] = Field(default_factory=list)
    """The chat template writes the day's date into the prompt."""
    prompt_token_ids: list[int] = Field(min_length=1)
    continuation_token_ids: list[int]
    top_logits: list[tuple[int, float]] = ()  # type: ignore[assignment] # an immutable default
    """(token id, logit) of the first step."""


@dataclass(frozen=True, slots=True)
class GoldenAgreement:
    """How much of the record a model repeats."""

    agreement: float
    """Share of the recorded answers' tokens that are the model's first choice too, 0 to 1."""
    first_step_kl: float
    """Mean KL(record ‖ model) over the recorded top tokens of each first step, nats."""
    tokens: int


def read_golden(adapter: Path, tokenizer: PreTrainedTokenizerBase) -> list[GoldenPrompt]:
    """Return the adapter's golden prompts; empty if it brings none (an adapter from elsewhere).

    Raises:
        Refused: malformed, or the tokenizer beside it writes the prompts otherwise than the trainer did.
    """
    path = adapter / GOLDEN
    if not path.is_file():
        return []
    try:
        document = json.loads(path.read_text("utf-8"))
        prompts = [GoldenPrompt.model_validate(entry) for entry in document["prompts"]]
    except ValidationError as error:
        raise Refused(f"{GOLDEN} is malformed: {pydantic_violations(error)[0]}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{GOLDEN} is malformed: {error!r}") from error
    for number, prompt in enumerate(prompts, start=1):
        if prompt.prompt_token_ids != render(tokenizer, Conversation(prompt.messages, prompt.tools), generate=True):
            raise Refused(
                f"foreign tokenizer: golden prompt {number} becomes other token ids than it had in training",
                remedy="Take the adapter as the trainer made it; its tokenizer and chat template must be unchanged.",
            )
    return prompts


def replay(model: Any, prompts: list[GoldenPrompt]) -> GoldenAgreement:  # noqa: ANN401 - a transformers or PEFT model
    """Return how well a model repeats the record, each recorded token asked with the recorded ones before it."""
    agreeing, tokens, kl = 0, 0, 0.0
    for prompt in prompts:
        start, answer = len(prompt.prompt_token_ids), prompt.continuation_token_ids
        logits = logits_T_V(model, prompt.prompt_token_ids + answer[:-1])[start - 1 :]
        chosen = logits.argmax(-1).tolist()[: len(answer)]
        agreeing += sum(mine == theirs for mine, theirs in zip(chosen, answer, strict=True))
        tokens += len(answer)
        kl += _first_step_kl(prompt, logits[:1])
    return GoldenAgreement(agreeing / max(1, tokens), kl / len(prompts), tokens)


def refuse_another_model(
    adapted: GoldenAgreement, plain: GoldenAgreement, *, min_agreement: float, max_kl: float
) -> None:
    """Refuse where base + adapter is not the model that was trained.

    Args:
        adapted: what base + adapter repeats of the record.
        plain: what the base without the adapter repeats.
        min_agreement: smallest share of the record's tokens that base + adapter must name first too.
        max_kl: largest KL of base + adapter from the record's first steps, nats.

    Raises:
        Refused: too little is repeated, the first steps lie too far from the record, or the adapter leads the base away
            from the record on both counts.
    """
    why = ""
    farther = adapted.first_step_kl > plain.first_step_kl + _KL_MARGIN
    if adapted.agreement < min_agreement:
        why = f"{min_agreement:.0%} of the recorded tokens must be repeated"
    elif adapted.first_step_kl > max_kl:
        why = f"a KL of {max_kl:g} nats is allowed"
    elif farther and adapted.agreement < plain.agreement:
        why = "the adapter leads the base away from the record"
    if why:
        raise Refused(
            f"base + adapter is not the model that was trained: of {adapted.tokens} answer tokens that the trainer "
            f"recorded it repeats {adapted.agreement:.0%} (the base alone {plain.agreement:.0%}), and its first steps "
            f"lie {adapted.first_step_kl:.3g} nats from the record (the base alone {plain.first_step_kl:.3g}); {why}",
            remedy="The adapter's files, its settings or the base were changed: merge the artifacts as they were made.",
        )


def _first_step_kl(prompt: GoldenPrompt, logits: torch.Tensor) -> float:
    if not prompt.top_logits:
        return 0.0
    recorded = torch.tensor([[logit for _, logit in prompt.top_logits]])
    return float(kl_T(recorded, logits[:, [token for token, _ in prompt.top_logits]]))
