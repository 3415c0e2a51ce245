"""Masks what is personal in names of functions and ids of calls, so that everything that names one still names it.

A function's name is masked alike in its definition, its calls and their results; two that would be the same then are
numbered. An id says nothing, so another takes its place. Knows one row at a time.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tunewright.dataprep import guards, scanning
from tunewright.dataprep.pii.masking import PLACEHOLDERS, Masked, mask
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import Pii
from tunewright.dataprep.tool_use import FRESH_ID, TOOLS, compact, names_of


def masked_names(row: Sequence[Message], pii: Pii, *, defined: bool) -> tuple[list[Message], Masked, int]:
    """Return a row with what its names hold masked, what was found, and the first message that was changed.

    Args:
        row: one row; its definitions are the first message, if it has some.
        pii: what is to be masked.
        defined: whether its definitions may hold personal data, so that they are to be looked at.
    """
    called = [call["function"]["name"] for call in _calls(row)]
    answered = [message["name"] for message in row if "name" in message]
    nothing = Masked("", {}, "")
    if not defined and not scanning.scan_one("\n".join([*called, *answered, *_ids(row)])) & guards.PII:
        return list(row), nothing, 0
    definitions = json.loads(row[0]["content"]) if row[0]["role"] == TOOLS else []
    functions, kinds, drop = _renamed(dict.fromkeys([*names_of(definitions), *called, *answered]), pii)
    if drop:
        return list(row), Masked("", {}, drop), 0
    ids, ids_kinds = _other_ids(row, pii)
    if not functions and not ids:
        return list(row), nothing, 0
    found: Counter[str] = Counter()
    for name in [*names_of(definitions), *called, *answered]:
        found.update(kinds.get(name, {}))
    for own in _ids(row):
        found.update(ids_kinds.get(own, {}))
    changed = [_changed(message, functions, ids, definitions) for message in row]
    first = next(at for at, (new, old) in enumerate(zip(changed, row, strict=True)) if new is not old)
    return changed, Masked("", dict(sorted(found.items())), ""), first


def _calls(row: Iterable[Message]) -> Iterator[Mapping[str, Any]]:
    return itertools.chain.from_iterable(message.get("tool_calls", ()) for message in row)


def _ids(row: Sequence[Message]) -> list[str]:
    return [*(call["id"] for call in _calls(row)), *(one["tool_call_id"] for one in row if "tool_call_id" in one)]


def _renamed(names: Iterable[str], pii: Pii) -> tuple[dict[str, str], dict[str, dict[str, int]], str]:
    """Return name → what stands in its place, name → what it holds, and the kind for which the row must go."""
    found = {name: mask(name, pii, scanning.scan_one(name)) for name in names}
    if drop := next((one.drop for one in found.values() if one.drop), ""):
        return {}, {}, drop
    taken = {name for name, one in found.items() if not one.kinds}
    renamed: dict[str, str] = {}
    for name, one in found.items():
        if one.kinds:
            renamed[name] = _free(_without_brackets(one.text), taken)
            taken.add(renamed[name])
    return renamed, {name: found[name].kinds for name in renamed}, ""


def _without_brackets(text: str) -> str:
    """Return a masked name with letters only in the placeholders: engines take no brackets in a function's name."""
    for placeholder in PLACEHOLDERS.values():
        text = text.replace(placeholder, placeholder.strip("[]"))
    return text


def _free(name: str, taken: set[str]) -> str:
    """Return the name, numbered if it is taken."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _other_ids(row: Sequence[Message], pii: Pii) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Return id → the one that takes its place, and what it holds. No row goes for an id, which can be replaced."""
    own = set(_ids(row))
    masking = Pii(**{kind: "keep" if getattr(pii, kind) == "keep" else "mask" for kind in PLACEHOLDERS})
    found = {one: mask(one, masking, scanning.scan_one(one)).kinds for one in dict.fromkeys(_ids(row))}
    fresh = (one for number in itertools.count(1) if (one := FRESH_ID.format(number)) not in own)
    return {one: next(fresh) for one, kinds in found.items() if kinds}, found


def _changed(
    message: Message, functions: Mapping[str, str], ids: Mapping[str, str], definitions: Sequence[Mapping[str, Any]]
) -> Message:
    new = dict(message)
    if message["role"] == TOOLS and definitions:
        named = [
            {**one, "function": {**one["function"], "name": functions.get(one["function"]["name"], name)}}
            for one, name in zip(definitions, names_of(definitions), strict=True)
        ]
        new["content"] = compact(named)
    if calls := message.get("tool_calls"):
        new["tool_calls"] = [
            {
                **call,
                "id": ids.get(call["id"], call["id"]),
                "function": {
                    **call["function"],
                    "name": functions.get(call["function"]["name"], call["function"]["name"]),
                },
            }
            for call in calls
        ]
    if "tool_call_id" in message:
        new["tool_call_id"] = ids.get(message["tool_call_id"], message["tool_call_id"])
    if "name" in message:
        new["name"] = functions.get(message["name"], message["name"])
    return message if new == message else new  # type: ignore[return-value]
