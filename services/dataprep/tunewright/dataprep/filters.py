"""Decides which clean rows are worth training on. Knows nothing of files, counts and duplicates."""

import re
from dataclasses import dataclass

from tunewright.dataprep import boilerplate, mojibake, refusals
from tunewright.dataprep.cleaning import ANSWERS
from tunewright.dataprep.code_spans import set_aside
from tunewright.dataprep.guards import BOILERPLATE, GARBLED, MOJIBAKE, REFUSAL
from tunewright.dataprep.pii.masking import WORDS
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import DataprepSpec, Filters

REASONS = {
    "empty_question": "A question without text, after cleaning",
    "empty_answer": "An answer or a document without text, after cleaning",
    "same_answers": "A pair whose chosen and rejected answer are the same, after cleaning",
    "answer_too_short": "Answers shorter than min_answer_chars",
    "too_long": "Messages longer than max_chars together",
    "not_rendered": "The base's chat template refuses it, so its tokens cannot be counted",
    "too_few_tokens": "Fewer tokens than min_tokens",
    "too_many_tokens": "More tokens than max_tokens",
    "garbled": "An answer with characters that were lost in a wrong conversion",
    "boilerplate": "An answer that is mostly a web page's furniture",
    "refusal": "An answer that refuses in an assistant's words (As an AI language model …)",
    "repetition": "An answer that goes round in a loop, or says much of itself twice",
    "language": "An answer in none of the languages asked for",
    "low_quality": "An answer whose form scores below min_quality",
    **{f"pii_{kind}": f"{words} in it, and the setting says to drop such rows" for kind, words in WORDS.items()},
}
"""Reason → words, for readable rows that are not worth training on, in the order in which they are looked for."""

_HOPELESS = 10
"""A raw row this many times longer than allowed is not cleaned first: no cleaning makes it fit."""
_MOSTLY = 0.5
_BROKEN = re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯|ï¿½")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a readable row is dropped."""

    reason: str
    detail: str


def reject_raw(messages: list[Message], spec: DataprepSpec) -> Rejection | None:
    """Return the reason to drop a row before it is cleaned: far too long (characters)."""
    size = sum(len(message["content"]) for message in messages)
    return _too_long(size, spec.filters) if size > _HOPELESS * spec.filters.max_chars else None


def reject_size(messages: list[Message], filters: Filters) -> Rejection | None:
    """Return the reason to drop a clean row for what it has too little or too much of; lengths are in characters."""
    if not all(message["content"] for message in messages if message["role"] == "user"):
        return Rejection("empty_question", "a question without text")
    answers = [message["content"] for message in messages if is_judged(message)]
    if not all(answers) or not all(message["content"] for message in messages if message["role"] == "rejected"):
        return Rejection("empty_answer", "an answer without text")
    size = sum(map(len, answers))
    if answers and size < (least := filters.min_answer_chars):
        return Rejection("answer_too_short", f"{size:,} characters; min_answer_chars is {least:,}")
    if messages[-1]["role"] == "rejected" and messages[-1]["content"] == messages[-2]["content"]:
        return Rejection("same_answers", "chosen and rejected are the same")
    total = sum(len(message["content"]) for message in messages)
    return _too_long(total, filters) if total > filters.max_chars else None


def is_judged(message: Message) -> bool:
    """Return True for a text that is learnt: an answer, but no call without words and none of weight 0."""
    if message["role"] not in ANSWERS or message.get("weight") == 0:
        return False
    return bool(message["content"] or not message.get("tool_calls"))


def reject_tokens(tokens: int, filters: Filters) -> Rejection | None:
    """Return the reason to drop a row for its tokens; 0 stands for a row that the base's template refuses."""
    if not filters.by_tokens:
        return None
    if not tokens:
        return Rejection("not_rendered", "the base's chat template refuses it")
    if tokens < filters.min_tokens:
        return Rejection("too_few_tokens", f"{tokens:,} tokens; min_tokens is {filters.min_tokens:,}")
    if 0 < filters.max_tokens < tokens:
        return Rejection("too_many_tokens", f"{tokens:,} tokens; max_tokens is {filters.max_tokens:,}")
    return None


def reject_answer(answer: str, questions: list[str], filters: Filters, flags: int) -> Rejection | None:
    """Return the reason to drop a row for the words of one answer; `flags` are its own, of `scanning.scan`."""
    if filters.garbled and flags & (GARBLED | MOJIBAKE) and (lost := _lost(answer, questions)):
        return Rejection("garbled", lost)
    if filters.boilerplate and flags & BOILERPLATE and not any(map(boilerplate.asks_for_boilerplate, questions)):
        share = boilerplate.share(answer)
        if share >= _MOSTLY:
            return Rejection("boilerplate", f"{share:.0%} of the answer's characters")
    if filters.refusals and flags & REFUSAL and refusals.is_refusal(answer):
        return Rejection("refusal", "the answer refuses")
    return None


def _lost(answer: str, questions: list[str]) -> str:
    around, _ = set_aside(answer)
    lost = ""
    if found := _BROKEN.search(around):
        lost = f"{found[0]} at character {found.start():,}"
    elif mojibake.is_lost(around):
        lost = "UTF-8 read as GBK, with bytes lost"
    return "" if lost and any(map(mojibake.is_about_encodings, [answer, *questions])) else lost


def _too_long(size: int, filters: Filters) -> Rejection:
    return Rejection("too_long", f"{size:,} characters; max_chars is {filters.max_chars:,}")
