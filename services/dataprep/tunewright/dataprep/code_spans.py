"""Sets Markdown code aside while the text around it is changed, and puts it back untouched.

Knows nothing of what is done to the text in between. Control characters 1 to 4 stand for the code, so the text must be
free of them.
"""

import re

_FENCED = r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n`]*\n(?s:.*?)(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)"
_INLINE = r"``[^\n]+?``|`[^`\n]+`"
_CODE = re.compile(f"{_FENCED}|{_INLINE}", re.MULTILINE)
_FENCE_START = re.compile(r"^[ \t]*(?:`{3}|~{3})", re.MULTILINE)

FENCE_TOKEN = re.compile("\x03\\d+\x04")
ANY_TOKEN = re.compile("[\x01\x03](\\d+)[\x02\x04]")


def set_aside(text: str) -> tuple[str, list[str]]:
    """Return the text with a token for each fenced block and each inline span of code, and the code."""
    spans: list[str] = []
    if "`" not in text and "~~~" not in text:
        return text, spans

    def token(match: re.Match[str]) -> str:
        spans.append(match[0])
        return f"\x03{len(spans) - 1}\x04" if match["fence"] else f"\x01{len(spans) - 1}\x02"

    return _CODE.sub(token, text), spans


def put_back(text: str, spans: list[str]) -> str:
    """Return the text with its code again; the inverse of `set_aside`."""
    return ANY_TOKEN.sub(lambda match: spans[int(match[1])], text) if spans else text


def has_fence(text: str) -> bool:
    """Return True if the text holds a fenced block of code."""
    return ("```" in text or "~~~" in text) and _FENCE_START.search(text) is not None
