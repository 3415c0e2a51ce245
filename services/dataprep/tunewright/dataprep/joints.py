"""Tells whether a template's text and the contents between have the same tokens each by itself as together.

They have where a content, which neither begins nor ends with white space, stands behind `letter, line break` or behind
a special token, and before a special token or nothing. A special token parts the text before all else; and of the
splitters known here none lets a piece begin with a single line break and go on with what is no white space. Of other
tokenizers and templates nothing is said. Knows no rows.
"""

from collections.abc import Sequence
from typing import Any

import orjson

_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_QWEN2 = {
    "type": "Split",
    "pattern": {
        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    },
    "behavior": "Isolated",
    "invert": False,
}
_KNOWN = ([_GPT2], [_DIGITS, _GPT2], [_QWEN2, {**_GPT2, "use_regex": False}])
_LEAVE_ENDS = ("", "NFC")
"""Normalizers that join no line break, and no special token, with what stands beside."""


class Joints:
    """What a tokenizer does where a template's text meets a content.

    Args:
        source: its tokenizer.json.
    """

    def __init__(self, source: str) -> None:
        tokenizer: dict[str, Any] = orjson.loads(source)
        splitters = _flat(tokenizer.get("pre_tokenizer"), "pretokenizers")
        normalizers = [one.get("type", "") for one in _flat(tokenizer.get("normalizer"), "normalizers")]
        known = [{name: value for name, value in one.items() if name != "trim_offsets"} for one in splitters] in _KNOWN
        self._known = known and all(name in _LEAVE_ENDS for name in normalizers)
        added: list[dict[str, Any]] = tokenizer.get("added_tokens") or []
        self._all = [str(token["content"]) for token in added]
        self._parting = tuple(str(token["content"]) for token in added if _parts_all(token))

    def part(self, frame: Sequence[str]) -> bool:
        """Return True if the tokens of a conversation are those of its contents and of the pieces of `frame`.

        Args:
            frame: the template's text before, between and after the contents.
        """
        if not self._known or any(self._could_join(piece) for piece in frame):
            return False
        first, *between, last = frame
        return (
            (not first or self._ends_apart(first))
            and all(self._begins_apart(piece) and self._ends_apart(piece) for piece in between)
            and (not last or self._begins_apart(last))
        )

    def _begins_apart(self, piece: str) -> bool:
        return piece.startswith(self._parting)

    def _ends_apart(self, piece: str) -> bool:
        return piece.endswith(self._parting) or (piece[-1:] == "\n" and piece[-2:-1].isalpha())

    def _could_join(self, piece: str) -> bool:
        """Return True if a special token could begin in a content and end in the piece, or the other way round."""
        for token in self._all:
            for cut in range(1, len(token)):
                head, tail = token[:cut], token[cut:]
                if piece and (piece.endswith(head) or piece.startswith(tail) or tail.startswith(piece)):
                    return True
        return False


def _flat(value: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return the parts of a sequence, or the one that stands in its place."""
    if not value:
        return []
    return list(value[name]) if value.get("type") == "Sequence" else [value]


def _parts_all(token: dict[str, Any]) -> bool:
    """Return True for a token that is found wherever it stands, before anything else is done."""
    return not any(token.get(name) for name in ("single_word", "lstrip", "rstrip", "normalized"))
