"""How the dataset looks to the base that will be trained: token lengths, what is cut, what is learned, token by token.

Runs after the dataset is written, before any GPU time is spent. audit.json holds the exact distribution of token
lengths, so that a planner can judge any max_length. Reads a base's tokenizer and template, never its weights.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.artifacts.conversations import TEMPLATE_DATE
from tunewright.chassis.errors import InvalidData, Refused
from tunewright.chassis.stage import Reporter, Severity
from tunewright.dataprep.excerpts import hidden
from tunewright.dataprep.kinds import RowKind, messages_of
from tunewright.dataprep.masking import BaseTokenizer, Labelled, Messages, conversations_of
from tunewright.dataprep.tokens import TokenCounter

AUDIT_FILE = "audit.json"
SCHEMA_VERSION = 1
_CHECKED_ROWS = 64
_SAMPLES = 3
_SAMPLE_TOKENS = 400
_MUCH = 0.05
"""Share of truncated rows above which somebody should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What is audited."""

    name: str
    """What the base is called; empty if nobody said."""
    kind: RowKind
    sides: Mapping[str, Path]
    """`train`, `validation` → JSON Lines of dataset rows."""
    tokens: Mapping[str, NDArray[np.uint32]]
    """Side → tokens of each row, repeats counted, in any order; 0 for a row that the template refuses."""
    max_length: int
    """Tokens that a row may have in training."""


def audit(found: Audited, counter: TokenCounter) -> dict[str, Any]:
    """Return the audit of a dataset; its keys stand in docs/data.md."""
    tokenizer = counter.base
    lengths = {side: Counter(tokens[tokens > 0].tolist()) for side, tokens in found.tokens.items()}
    checked, refusal = _checked(found.sides, tokenizer)
    splits = found.kind is RowKind.TEXT
    return {
        "schema_version": SCHEMA_VERSION,
        "base": found.name,
        "tokenizer_sha256": tokenizer.sha256,
        "chat_template_sha256": tokenizer.template_sha256,
        "template_date": TEMPLATE_DATE.isoformat() if tokenizer.asks_for_date else None,
        "row_kind": found.kind.value,
        "mask": "whole" if splits else tokenizer.rule,
        "counted_by": counter.engine,
        "max_length": found.max_length,
        "over_max_length": "split" if splits else "truncated",
        "rows": {side: len(tokens) for side, tokens in found.tokens.items()},
        "uncounted": {side: int((tokens == 0).sum()) for side, tokens in found.tokens.items()},
        "tokens": {side: _figures(one) for side, one in lengths.items()},
        "truncated": {
            side: _truncated(Counter() if splits else one, found.max_length) for side, one in lengths.items()
        },
        "lengths": {side: sorted(one.items()) for side, one in lengths.items()},
        "end_token_ids": sorted(tokenizer.end_ids),
        "checked": _summary(checked, tokenizer),
        "refusal": refusal,
        "samples": [_sample(place, one, tokenizer) for place, one in checked[:_SAMPLES]],
    }


def tell(document: Mapping[str, Any], report: Reporter) -> None:
    """Tell what somebody should know before training."""
    if refusal := document["refusal"]:
        report.event(refusal["type"], f"{refusal['why']}. {refusal['remedy']}", severity=Severity.WARNING)
    if uncounted := sum(document["uncounted"].values()):
        text = f"The base's chat template refuses {uncounted:,} rows, and training would too"
        report.event("not_rendered", text, severity=Severity.WARNING, rows=uncounted)
    cut = document["truncated"]["train"]
    if cut["share"] > _MUCH:
        text = (
            f"{cut['rows']:,} training rows ({cut['share']:.1%}) have more than {document['max_length']:,} tokens: "
            "training cuts them, and the end of their answers is not learned. Raise training.max_length, or drop them "
            "by filters.max_tokens"
        )
        report.event("rows_truncated", text, severity=Severity.WARNING, **cut)


def to_json(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of audit.json."""
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page shows: all but the exact distribution."""
    return {key: value for key, value in document.items() if key != "lengths"}


def _checked(
    sides: Mapping[str, Path], tokenizer: BaseTokenizer
) -> tuple[list[tuple[str, Labelled]], dict[str, str] | None]:
    """Return the first rows of each side as the trainer would label them, and why it would refuse one."""
    found = []
    for path in sides.values():
        for place, messages in itertools.islice(_rows(path), _CHECKED_ROWS):
            try:
                found.append((place, tokenizer.label(messages)))
            except (InvalidData, Refused) as error:
                type_ = "no_end_token" if isinstance(error, Refused) else "template_refuses"
                return found, {"type": type_, "why": f"{place}: {error.message}", "remedy": error.remedy}
    return found, None


def _rows(path: Path) -> Iterator[tuple[str, Messages]]:
    """Yield the place (`train.jsonl:7`) of each row and the conversation it is, a pair with its chosen answer."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            yield f"{path.name}:{number}", conversations_of(messages_of(orjson.loads(line)))[0]


def _figures(lengths: Counter[int]) -> dict[str, int]:
    """Return total and quantiles, in tokens; all 0 for no rows."""
    total = sum(length * rows for length, rows in lengths.items())
    shares = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {"total": total, **{name: _quantile(lengths, share) for name, share in shares.items()}}


def _quantile(lengths: Counter[int], share: float) -> int:
    rows, seen = lengths.total(), 0
    wanted = min(rows - 1, int(share * rows))
    for length in sorted(lengths):
        seen += lengths[length]
        if seen > wanted:
            return length
    return 0


def _truncated(lengths: Counter[int], max_length: int) -> dict[str, float]:
    cut = sum(rows for length, rows in lengths.items() if length > max_length)
    return {"rows": cut, "share": round(cut / max(1, lengths.total()), 6)}


def _summary(checked: Sequence[tuple[str, Labelled]], tokenizer: BaseTokenizer) -> dict[str, Any]:
    """Return what was seen in the rows whose mask was made."""
    tokens = sum(len(found.ids) for _, found in checked)
    learned = sum(sum(found.mask) for _, found in checked)
    ended = sum(any(token in tokenizer.end_ids for token in _learned(found)) for _, found in checked)
    return {"rows": len(checked), "tokens": tokens, "learned_tokens": learned, "rows_that_learn_to_end": ended}


def _learned(found: Labelled) -> Iterator[int]:
    return (token for token, counts in zip(found.ids, found.mask, strict=True) if counts)


def _sample(place: str, found: Labelled, tokenizer: BaseTokenizer) -> dict[str, Any]:
    """Return a row's tokens as texts, each with True where it is learned and True where it ends a turn.

    Personal data that the settings keep is shown as dots, as everywhere in a report.
    """
    tokens, at, shown_text = [], 0, hidden(found.text)
    for number, token in enumerate(found.ids[:_SAMPLE_TOKENS]):
        end = max(at, found.offsets[number][1])
        text = shown_text[at:end] or ("" if end < len(found.text) else tokenizer.words([token])[0])
        tokens.append({"text": text, "learned": found.mask[number], "ends": token in tokenizer.end_ids})
        at = end
    return {"place": place, "tokens": tokens, "left_out": max(0, len(found.ids) - _SAMPLE_TOKENS)}
