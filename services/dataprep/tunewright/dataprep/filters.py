"""Decides which clean rows are worth training on. Knows nothing of files, counts and duplicates."""

from dataclasses import dataclass

from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import DataprepSpec

_HOPELESS = 10
"""A raw row this many times longer than allowed is not cleaned first: no cleaning makes it fit."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a readable row is dropped."""

    reason: str
    detail: str


def reject_raw(messages: list[Message], spec: DataprepSpec) -> Rejection | None:
    """Return the reason to drop a row before it is cleaned: far too long (characters)."""
    size = sum(len(message["content"]) for message in messages)
    return _too_long(size, spec) if size > _HOPELESS * spec.filters.max_chars else None


def reject(messages: list[Message], spec: DataprepSpec) -> Rejection | None:
    """Return the reason to drop a clean row, or None; lengths are in characters."""
    if not all(message["content"] for message in messages if message["role"] == "user"):
        return Rejection("empty_question", "a question without text")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not all(answers):
        return Rejection("empty_answer", "an answer without text")
    size = sum(map(len, answers))
    if size < (least := spec.filters.min_answer_chars):
        return Rejection("answer_too_short", f"{size:,} characters; min_answer_chars is {least:,}")
    total = sum(len(message["content"]) for message in messages)
    return _too_long(total, spec) if total > spec.filters.max_chars else None


def _too_long(size: int, spec: DataprepSpec) -> Rejection:
    return Rejection("too_long", f"{size:,} characters; max_chars is {spec.filters.max_chars:,}")
