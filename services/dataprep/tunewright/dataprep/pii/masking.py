"""Puts a placeholder in the place of personal data, or says that the row must go; by kind. Knows nothing of rows.

A text that is JSON stays JSON: where a placeholder would break it, its strings and numbers are masked one by one. Keys
that would be the same once masked are numbered, so that no value is lost.
"""

import bisect
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tunewright.dataprep import scanning
from tunewright.dataprep.json_texts import is_json, keys_of, replace_values
from tunewright.dataprep.pii.finding import KINDS, Found, find
from tunewright.dataprep.spec import Pii

PLACEHOLDERS = {
    "emails": "[EMAIL]",
    "phones": "[PHONE]",
    "cards": "[CARD]",
    "ibans": "[IBAN]",
    "national_ids": "[ID]",
    "secrets": "[SECRET]",
}
"""Kind → what stands in its place; always the same, so that a model learns one word for it."""
WORDS = {
    "emails": "E-mail addresses",
    "phones": "Phone numbers",
    "cards": "Payment card numbers (Luhn's checksum)",
    "ibans": "Bank accounts (IBAN, by checksum)",
    "national_ids": "Identity numbers (China by checksum; United States)",
    "secrets": "Keys, tokens, passwords in URLs, private keys",
}


_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
"""A string of JSON with its quotes."""


class Masked(NamedTuple):
    """A text after masking."""

    text: str
    kinds: dict[str, int]
    """Kind that was masked → places."""
    drop: str
    """Kind for which the row must go; empty if it may stay."""


def mask(text: str, pii: Pii, flags: int) -> Masked:
    """Return the text masked; `flags` are those of `scanning.scan`."""
    masked = _mask_text(text, pii, flags)
    if not masked.kinds or not is_json(text) or (is_json(masked.text) and not _keys_met(text, masked.text)):
        return masked
    return _mask_within(text, pii, flags)


def _keys_met(before: str, after: str) -> bool:
    """Return True if keys that differed before are the same after."""
    return len(keys_of(after)) < len(keys_of(before))


def mask_json(text: str, pii: Pii) -> Masked:
    """Return a JSON document masked, also what its escapes hide."""
    around = mask(text, pii, scanning.scan_one(text))
    if around.drop:
        return around
    inside = _mask_values(around.text, pii)
    return Masked(inside.text, {} if inside.drop else _added(around.kinds, inside.kinds), inside.drop)


def masked_calls(calls: Sequence[Mapping[str, Any]], pii: Pii) -> tuple[list[dict[str, Any]], Masked]:
    """Return calls of tools with their arguments masked, and what was found in all of them."""
    own = [mask_json(call["function"]["arguments"], pii) for call in calls]
    masked = [
        {**call, "function": {**call["function"], "arguments": one.text}} for call, one in zip(calls, own, strict=True)
    ]
    drop = next((one.drop for one in own if one.drop), "")
    return masked, Masked("", _added(*(one.kinds for one in own)), drop)


def _mask_within(text: str, pii: Pii, flags: int) -> Masked:
    """Return a JSON document masked: whole places where it stays JSON then, the rest by what its values say."""
    kinds: Counter[str] = Counter()
    text, found = _number_keys(text, pii)
    kinds.update(found)
    if found:
        flags = scanning.scan_one(text)
    literals = [match.span() for match in _LITERAL.finditer(text)]
    begins = [begin for begin, _ in literals]
    # What lies outside of literals is a number or a word of JSON, for which no placeholder can stand.
    found_places = [one for one in find(text, flags) if getattr(pii, one.kind) != "keep"]
    places = [one for one in found_places if _meets_literal(one, literals, begins)]
    together = _put(text, places)
    if is_json(together):  # all at once: to look at the whole document for each would take for ever in a long one
        text = together
        kinds.update(one.kind for one in places)
    else:
        for one in reversed(places):
            changed = _put(text, [one])
            if is_json(changed):
                text = changed
                kinds[one.kind] += 1
    inside = _mask_values(text, pii)
    return Masked(inside.text, {} if inside.drop else _added(kinds, inside.kinds), inside.drop)


def _put(text: str, places: Sequence[Found]) -> str:
    """Return a text with placeholders at places, which are in order and apart."""
    for one in reversed(places):
        text = text[: one.start] + PLACEHOLDERS[one.kind] + text[one.end :]
    return text


def _meets_literal(place: Found, literals: Sequence[tuple[int, int]], begins: Sequence[int]) -> bool:
    """Return True if a place shares a character with one of the literals of a JSON document, which are in order."""
    last = bisect.bisect_left(begins, place.end) - 1
    return last >= 0 and literals[last][1] > place.start


def _number_keys(text: str, pii: Pii) -> tuple[str, dict[str, int]]:
    """Return a JSON document with its keys masked, numbered where two would be the same; and what they held."""
    keys = keys_of(text)
    masked = {key: one for key in keys if (one := _mask_text(key, pii, scanning.scan_one(key))).kinds}
    taken = set(keys) - masked.keys()
    names: dict[str, str] = {}
    for key, one in masked.items():
        numbered = (f"{one.text}_{number}" for number in itertools.count(2))
        names[key] = one.text if one.text not in taken else next(name for name in numbered if name not in taken)
        taken.add(names[key])
    kinds: Counter[str] = Counter()

    def change(value: str) -> str:
        kinds.update(masked[value].kinds if value in masked else ())
        return names.get(value, value)

    return replace_values(text, change) if names else text, dict(kinds)


def _mask_values(text: str, pii: Pii) -> Masked:
    """Return a JSON document with its strings and numbers masked one by one."""
    text, kinds = _number_keys(text, pii)
    found: list[Masked] = []

    def change(value: str) -> str:
        masked = _mask_text(value, pii, scanning.scan_one(value))
        found.append(masked)
        return masked.text

    changed = replace_values(text, change)
    drop = next((one.drop for one in found if one.drop), "")
    return Masked(text if drop else changed, {} if drop else _added(kinds, *(one.kinds for one in found)), drop)


def _added(*counts: Mapping[str, int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


def _mask_text(text: str, pii: Pii, flags: int) -> Masked:
    """Return any text masked. Again until nothing is found: masking uncovers."""
    kinds: Counter[str] = Counter()
    while found := [one for one in find(text, flags) if getattr(pii, one.kind) != "keep"]:
        for kind in KINDS:
            if getattr(pii, kind) == "drop" and any(one.kind == kind for one in found):
                return Masked(text, {}, kind)
        parts, position = [], 0
        for one in found:
            parts += [text[position : one.start], PLACEHOLDERS[one.kind]]
            position = one.end
        text = "".join([*parts, text[position:]])
        kinds.update(one.kind for one in found)
    return Masked(text, dict(sorted(kinds.items())), "")
