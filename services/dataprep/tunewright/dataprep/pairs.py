"""Preference pairs in the forms that they are found in: prompt, chosen and rejected answer out of a row's three values.

The prompt may be a text, messages, or stand before both answers (a conversation each, in messages or in the one text of
Anthropic's HH sets). Knows no files and no names of fields but its own.
"""

import re
from typing import Any, NamedTuple

from tunewright.dataprep.problems import RowError, kind_of
from tunewright.dataprep.turns import sharegpt

_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):[ \t]?")


class Pair(NamedTuple):
    """Turns, not yet checked."""

    prompt: list[Any]
    chosen: Any
    rejected: Any


def pair_of(prompt: Any, chosen: Any, rejected: Any) -> Pair:  # noqa: ANN401 - any JSON values
    """Return the turns of a pair: the prompt, and the last turn of each answer.

    Raises:
        RowError: an answer is neither text nor messages, or both differ before their last turn.
    """
    asked = _prompt_turns(prompt)
    better, worse = _answer_turns(chosen, "chosen"), _answer_turns(rejected, "rejected")
    count = 0
    while count < min(len(better), len(worse)) - 1 and better[count] == worse[count]:
        count += 1
    for name, turns in (("chosen", better), ("rejected", worse)):
        if len(turns) != count + 1:
            raise RowError("no_shared_prompt", name, "chosen and rejected may differ in the last answer only")
    return Pair(_joined(asked, better[:count]), better[-1], worse[-1])


def _joined(asked: list[Any], shared: list[Any]) -> list[Any]:
    """Return the prompt where the answers repeat all of it, its end, or more than it has."""
    if shared[: len(asked)] == asked:
        return shared
    if not shared or asked[-len(shared) :] == shared:
        return asked
    return [*asked, *shared]


def _prompt_turns(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict) and "messages" in value:
        value = value["messages"]
    if isinstance(value, str):
        turns = _spoken(value) or ([{"role": "user", "content": value}] if value else [])
        return turns[:-1] if turns and turns[-1] == {"role": "assistant", "content": ""} else turns
    if value is None:
        return []
    return sharegpt(value, "prompt").turns


def _answer_turns(value: Any, name: str) -> list[Any]:  # noqa: ANN401 - any JSON value
    if isinstance(value, str):
        return _spoken(value) or [{"role": "assistant", "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RowError("wrong_type", name, f"a string or a list of messages is expected, found {kind_of(value)}")
    if not value:
        raise RowError("no_answer", name, "is an empty list")
    return sharegpt(value, name).turns


def _spoken(text: str) -> list[Any]:
    """Return the turns of a text that is a conversation of `Human:` and `Assistant:`; none if it is not."""
    found = list(_TURN.finditer(text))
    if not found or found[0].start() or found[0][1] != "Human":
        return []
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [
        {"role": _SPEAKERS[match[1]], "content": text[match.end() : end].strip()}
        for match, end in zip(found, ends, strict=True)
    ]
