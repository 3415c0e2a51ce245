"""Cleans the messages of a row. Keeps line breaks, indentation, code, tables and maths; says which rules changed it.

Each rule is one function from text to text. They run in order, again and again until nothing changes, so that cleaning
twice is cleaning once. Knows nothing of files and counts.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tunewright.dataprep import guards, mojibake, scanning
from tunewright.dataprep.boilerplate import asks_for_boilerplate, without_edges
from tunewright.dataprep.code_spans import put_back, set_aside
from tunewright.dataprep.html_text import html_to_text
from tunewright.dataprep.json_texts import is_json
from tunewright.dataprep.markup import asks_about_markup, decode_entities, has_markup, is_program
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import Cleaning
from tunewright.dataprep.tool_use import TOOLS

Rule = Callable[[str], str]

RULES = {
    "line_endings": "Carriage returns, form feeds and Unicode line separators became line breaks",
    "control_characters": "Control characters removed; stray Windows-1252 punctuation restored",
    "invisible_characters": "Zero-width characters and soft hyphens removed; joiners of letters and emoji stay",
    "mojibake": "Text decoded with the wrong encoding was decoded rightly (â€™ became ’)",
    "html": "HTML tags and entities became text; code, generics and comparisons stayed",
    "unicode": "Unicode brought to one form (NFC, or NFKC where asked for)",
    "trailing_space": "Spaces at line ends removed",
    "outer_space": "Blank lines and spaces around the message removed",
    "boilerplate_lines": "Lines of web pages' furniture at an answer's beginning or end removed",
}
"""Rule → what it does, in words for people."""

ANSWERS = frozenset({"assistant", "text", "chosen"})
"""Roles whose texts are learnt."""
_SUBJECTS = {"mojibake": "encodings", "boilerplate_lines": "boilerplate"}
"""Rule → what a row must not be about for the rule to change it."""
EDGED = ANSWERS | {"rejected"}
"""Roles whose texts may have a web page's furniture around them: both answers of a pair are cleaned alike."""
_FLAGS = {
    "line_endings": guards.LINE_ENDING,
    "control_characters": guards.CONTROL,
    "mojibake": guards.MOJIBAKE,
    "invisible_characters": guards.INVISIBLE,
    "html": guards.MARKUP,
    "unicode": guards.COMPOSABLE,
    "trailing_space": guards.SPACE,
    "boilerplate_lines": guards.BOILERPLATE,
    "outer_space": guards.SPACE,
}
"""Rule → the flag without which it leaves a text as it is; NFKC needs another one."""
_UNUSUAL_FLAGS = guards.LINE_ENDING | guards.CONTROL | guards.INVISIBLE
_MAX_ROUNDS = 50
_CODE_MARK = re.compile("[\x01-\x05]")
_UNUSUAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b-\u200d\u2028\u2029\u2060\ufeff]")
_LINE_ENDING = re.compile("\r\n?|[\x0b\x0c\u2028\u2029]")
_C0 = dict.fromkeys([*range(9), *range(0x0E, 0x20), 0x7F])
_C1 = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
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


def clean_messages(messages: list[Message], spec: Cleaning, flags: Sequence[int] | None = None) -> Cleaned:
    """Return the messages cleaned. System messages are cleaned like all others; definitions and arguments are not.

    A text that is JSON and would not be any more stays as it is.

    Args:
        messages: of one row.
        spec: which rules are on.
        flags: of each message, of `scanning.scan`, so that only rules are tried that may change it; None tries all.
    """
    texts = [message["content"] for message in messages]
    has_angle = spec.html and any("<" in text or "&" in text for text in texts)
    subject = _Subject(messages)
    cleaned: list[Message] = []
    fired: dict[str, int] = {}
    for index, message in enumerate(messages):
        own = None if flags is None else flags[index]
        if message["role"] == TOOLS:
            cleaned.append(message)
            continue
        text, changed = clean_text(
            message["content"], spec, is_answer=message["role"] in EDGED, subject=subject, flags=own
        )
        if changed and is_json(message["content"]) and not is_json(text):
            text, changed = message["content"], set()
        for rule in sorted(changed):
            fired.setdefault(rule, index)
        cleaned.append({**message, "content": text} if changed else message)
    left = has_angle and any(has_markup(set_aside(message["content"])[0]) for message in cleaned)
    return Cleaned(cleaned, fired, left)


class _Subject:
    """What a row is about, looked at only where a rule would change something that may be its subject."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages

    @functools.cached_property
    def markup(self) -> bool:
        """True if a question speaks of markup."""
        return any(map(asks_about_markup, self._asked()))

    @functools.cached_property
    def boilerplate(self) -> bool:
        """True if a question speaks of pages' furniture."""
        return any(map(asks_for_boilerplate, self._asked()))

    @functools.cached_property
    def encodings(self) -> bool:
        """True if any text speaks of encodings."""
        return any(mojibake.is_about_encodings(message["content"]) for message in self._messages)

    def _asked(self) -> list[str]:
        return [message["content"] for message in self._messages if message["role"] == "user"]


def clean_text(
    text: str, spec: Cleaning, *, is_answer: bool = False, subject: _Subject | None = None, flags: int | None = None
) -> tuple[str, set[str]]:
    """Return the text cleaned and the names of the rules that changed it; `flags` as in `clean_messages`."""
    about = subject or _Subject([])
    fired: set[str] = set()
    looked_for = cleaning_flags(spec, is_answer=is_answer)
    for _ in range(_MAX_ROUNDS):
        if flags is not None and not flags & looked_for:
            break
        before = text
        for name, rule in _rules_for(text, spec, about, is_answer=is_answer, flags=flags):
            if flags is not None and not flags & _flag_of(name, spec):
                continue
            changed = rule(text)
            if changed != text and not (name in _SUBJECTS and getattr(about, _SUBJECTS[name])):
                fired.add(name)
                text = changed
                flags = None if flags is None else scanning.scan_one(text)
        if text == before:
            break
    return text, fired


def cleaning_flags(spec: Cleaning, *, is_answer: bool) -> int:
    """Return the flags of which a text that cleaning changes has one."""
    edges = guards.BOILERPLATE if is_answer and spec.boilerplate_lines else 0
    return guards.CLEANING | edges | _flag_of("unicode", spec)


def _flag_of(rule: str, spec: Cleaning) -> int:
    return guards.NON_ASCII if rule == "unicode" and spec.unicode == "nfkc" else _FLAGS[rule]


def _rules_for(
    text: str, spec: Cleaning, about: _Subject, *, is_answer: bool, flags: int | None
) -> list[tuple[str, Rule]]:
    """Return the rules that this text may need; most texts need next to none, and looking is cheap."""
    unusual = _UNUSUAL.search(text) is not None if flags is None else bool(flags & _UNUSUAL_FLAGS)
    foreign = not text.isascii()
    has_tokens = not spec.control_characters and _CODE_MARK.search(text) is not None
    angle = spec.html and not has_tokens and ("<" in text or "&" in text) and not about.markup
    wanted = (
        ("line_endings", spec.line_endings and unusual, _line_endings),
        ("control_characters", spec.control_characters and unusual, _c0_controls),
        ("mojibake", spec.mojibake and foreign and not has_tokens, _outside_code(mojibake.repair)),
        ("control_characters", spec.control_characters and unusual, _c1_controls),
        ("invisible_characters", spec.invisible_characters and unusual, _invisible),
        ("html", angle, _outside_code(_html)),
        ("unicode", spec.unicode != "none" and foreign and not has_tokens, _outside_code(_form(spec.unicode))),
        ("trailing_space", spec.trailing_space and not has_tokens, _outside_code(_trailing_space)),
        ("boilerplate_lines", spec.boilerplate_lines and is_answer, without_edges),
        ("outer_space", spec.outer_space, _outer_space),
    )
    return [(name, rule) for name, needed, rule in wanted if needed]


def _outside_code(rule: Rule) -> Rule:
    def guarded(text: str) -> str:
        around, code = set_aside(text)
        return put_back(rule(around), code)

    return guarded


def _line_endings(text: str) -> str:
    return _LINE_ENDING.sub("\n", text)


def _c0_controls(text: str) -> str:
    return text.translate(_C0)


def _c1_controls(text: str) -> str:
    return text.translate(_C1)


def _invisible(text: str) -> str:
    return _STRAY_JOINER.sub("", text.translate(_INVISIBLE))


def _html(text: str) -> str:
    if is_program(text):
        return text
    return html_to_text(text) if has_markup(text) else decode_entities(text)


def _form(name: str) -> Rule:
    form: Literal["NFC", "NFKC"] = "NFKC" if name == "nfkc" else "NFC"

    def brought(text: str) -> str:
        return text if unicodedata.is_normalized(form, text) else unicodedata.normalize(form, text)

    return brought


def _trailing_space(text: str) -> str:
    may_have = text[-1:].isspace() or any(end in text for end in _SPACE_BEFORE_BREAK)
    return _TRAILING.sub("", text) if may_have else text


def _outer_space(text: str) -> str:
    """Strip the ends; the first line keeps its indentation where later lines are indented too."""
    text = _LEADING_BLANK_LINES.sub("", text).rstrip()
    return text if _INDENTED_LATER.search(text) else text.lstrip()
