"""Cleans the messages of a row. Keeps line breaks, indentation, code, tables and maths; says which rules changed it.

Each rule is one function from text to text. They run in order, again and again until nothing changes, so that cleaning
twice is cleaning once. Knows nothing of files and counts.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from tunewright.dataprep.code_spans import put_back, set_aside
from tunewright.dataprep.html_text import html_to_text
from tunewright.dataprep.markup import asks_about_markup, decode_entities, has_markup, is_program
from tunewright.dataprep.shapes import Message

Rule = Callable[[str], str]

RULES = {
    "line_endings": "Carriage returns, form feeds and Unicode line separators became line breaks",
    "control_characters": "Control characters removed; stray Windows-1252 punctuation restored",
    "invisible_characters": "Zero-width characters and soft hyphens removed; joiners of letters and emoji stay",
    "html": "HTML tags and entities became text; code, generics and comparisons stayed",
    "unicode_nfc": "Unicode brought to its composed form (NFC)",
    "trailing_space": "Spaces at line ends removed",
    "outer_space": "Blank lines and spaces around the message removed",
}
"""Rule → what it does, in words for people."""

_MAX_ROUNDS = 50
_UNUSUAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b-\u200d\u2028\u2029\u2060\ufeff]")
_LINE_ENDING = re.compile("\r\n?|[\x0b\x0c\u2028\u2029]")
_C0 = dict.fromkeys([*range(9), *range(0x0B, 0x20), 0x7F])
_C1 = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
_CONTROLS = str.maketrans({**_C0, **_C1})
_INVISIBLE = str.maketrans(dict.fromkeys("\xad\u200b\u2060\ufeff"))
# Joiners shape Indic, Arabic and Persian letters and emoji; beside ASCII they are dirt.
_STRAY_JOINER = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\x7f\u200c\u200d])")
_SPACE_BEFORE_BREAK = (" \n", "\t\n", "\xa0\n", "\u3000\n")
_TRAILING = re.compile("(?<![ \t\xa0\u3000])[ \t\xa0\u3000]+(?=\n|\\Z)")
_LEADING_BLANK_LINES = re.compile("\\A(?:[ \t\xa0\u3000]*\n)+")
_INDENTED_LATER = re.compile("\n[ \t]+[^ \t\n]")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A row after cleaning."""

    messages: list[Message]
    rules: dict[str, int]
    """Rule that changed it → the first message that it changed."""
    markup_left: bool
    """True if it has markup that stayed because it is the row's subject."""


def clean_messages(messages: list[Message], *, strip_html: bool) -> Cleaned:
    """Return the messages cleaned. System messages are cleaned like all others."""
    has_angle = strip_html and any("<" in message["content"] or "&" in message["content"] for message in messages)
    subject = has_angle and any(asks_about_markup(m["content"]) for m in messages if m["role"] == "user")
    cleaned: list[Message] = []
    fired: dict[str, int] = {}
    for index, message in enumerate(messages):
        text, rules = clean_text(message["content"], strip_html=has_angle and not subject)
        for rule in sorted(rules):
            fired.setdefault(rule, index)
        cleaned.append({"role": message["role"], "content": text})
    left = has_angle and any(has_markup(set_aside(message["content"])[0]) for message in cleaned)
    return Cleaned(cleaned, fired, left)


def clean_text(text: str, *, strip_html: bool) -> tuple[str, set[str]]:
    """Return the text cleaned and the names of the rules that changed it."""
    fired: set[str] = set()
    for _ in range(_MAX_ROUNDS):
        before = text
        for name, rule in _rules_for(text, strip_html=strip_html):
            changed = rule(text)
            if changed != text:
                fired.add(name)
                text = changed
        if text == before:
            break
    return text, fired


def _rules_for(text: str, *, strip_html: bool) -> list[tuple[str, Rule]]:
    """Return the rules that this text may need; most texts need next to none, and looking is cheap."""
    rules: list[tuple[str, Rule]] = []
    if _UNUSUAL.search(text):
        rules += [
            ("line_endings", _line_endings),
            ("control_characters", _controls),
            ("invisible_characters", _invisible),
        ]
    if strip_html and ("<" in text or "&" in text):
        rules.append(("html", _outside_code(_html)))
    if not text.isascii():
        rules.append(("unicode_nfc", _outside_code(_nfc)))
    rules += [("trailing_space", _outside_code(_trailing_space)), ("outer_space", _outer_space)]
    return rules


def _outside_code(rule: Rule) -> Rule:
    def guarded(text: str) -> str:
        around, code = set_aside(text)
        return put_back(rule(around), code)

    return guarded


def _line_endings(text: str) -> str:
    return _LINE_ENDING.sub("\n", text)


def _controls(text: str) -> str:
    return text.translate(_CONTROLS)


def _invisible(text: str) -> str:
    return _STRAY_JOINER.sub("", text.translate(_INVISIBLE))


def _html(text: str) -> str:
    if is_program(text):
        return text
    return html_to_text(text) if has_markup(text) else decode_entities(text)


def _nfc(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _trailing_space(text: str) -> str:
    may_have = text[-1:].isspace() or any(end in text for end in _SPACE_BEFORE_BREAK)
    return _TRAILING.sub("", text) if may_have else text


def _outer_space(text: str) -> str:
    """Strip the ends; the first line keeps its indentation where later lines are indented too."""
    text = _LEADING_BLANK_LINES.sub("", text).rstrip()
    return text if _INDENTED_LATER.search(text) else text.lstrip()
