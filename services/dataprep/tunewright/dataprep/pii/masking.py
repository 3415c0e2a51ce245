"""Puts a placeholder in the place of personal data, or says that the row must go; by kind. Knows nothing of rows."""

from collections import Counter
from typing import NamedTuple

from tunewright.dataprep.pii.finding import KINDS, find
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


class Masked(NamedTuple):
    """A text after masking."""

    text: str
    kinds: dict[str, int]
    """Kind that was masked → places."""
    drop: str
    """Kind for which the row must go; empty if it may stay."""


def mask(text: str, pii: Pii, flags: int) -> Masked:
    """Return the text masked; `flags` are those of `scanning.scan`. Again until nothing is found: masking uncovers."""
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
