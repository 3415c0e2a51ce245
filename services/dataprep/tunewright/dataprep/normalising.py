"""The form in which two texts are compared: equal forms say the same.

Letters are case-folded, spaces collapsed, punctuation at the end of words dropped, wide forms made narrow (NFKC). Where
that is not safe, in code and indented text, only line ends are evened out. `C`, `C++` and `C#`, `3.14` and `314`,
`5!` and `5` stay apart. Knows nothing of rows.
"""

import hashlib
import re
import unicodedata

from tunewright.dataprep.code_spans import has_fence
from tunewright.dataprep.shapes import Message

_INDENTED = re.compile(r"^(?: {2,}|\t)\S", re.MULTILINE)
_CODE_LINE = re.compile(r"[;{}]$", re.MULTILINE)
# The patterns begin with what they look for, not with what stands before it: that is three times as fast.
_FINAL_PUNCTUATION = re.compile(r"[.,:;?!…](?<=[\w)\"'].)(?<![0-9]!)[.,:;?!…]*(?=\s|$)")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_CJK_PUNCTUATION = re.compile(f"[\u3001\u3002\uff0c\uff1b\uff1a\uff1f\uff01]|[,.;:?!](?<=[{_CJK}].)")
_SPACE_BESIDE_CJK = re.compile(f" (?:(?<=[{_CJK}] )|(?=[{_CJK}]))")
_TYPOGRAPHIC = re.compile("[‘’“”–—]")
_PLAIN = {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"}


def normalise(text: str) -> str:
    """Return the form of `text` in which it is compared with others."""
    if is_code(text):
        return "\n".join(line.rstrip() for line in text.splitlines())
    if not text.isascii():
        text = _CJK_PUNCTUATION.sub(" ", _TYPOGRAPHIC.sub(lambda match: _PLAIN[match[0]], text))
        text = unicodedata.normalize("NFKC", text)
        text = _SPACE_BESIDE_CJK.sub("", " ".join(text.split()))
    return " ".join(_FINAL_PUNCTUATION.sub("", text.casefold()).split())


def is_code(text: str) -> bool:
    """Return True if letter case and spacing may mean something: fenced code, indented lines, lines ending in ; { }."""
    return "\n" in text and (has_fence(text) or bool(_INDENTED.search(text) or _CODE_LINE.search(text)))


def identity(forms: list[str], messages: list[Message]) -> bytes:
    """Return the SHA-256 (32 bytes) of a row's roles and normalised texts; equal rows say the same."""
    pairs = zip(messages, forms, strict=True)
    joined = "\x1e".join(f"{message['role']}\x1f{form}" for message, form in pairs)
    return hashlib.sha256(joined.encode()).digest()


def question_form(forms: list[str], messages: list[Message]) -> str:
    """Return the normalised first user message: the question by which rows are grouped."""
    return next(form for form, message in zip(forms, messages, strict=True) if message["role"] == "user")
