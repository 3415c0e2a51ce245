"""Tells real HTML markup from comparisons, generics and code, and decides when it is left alone.

Knows nothing of rows. How markup becomes text stands in `html_text.py`. When in doubt, markup stays: a tag too many
costs little, a destroyed answer about HTML costs the answer.
"""

import html
import re

VOID = frozenset({"br", "hr", "wbr", "img"})
NOTES = frozenset({"note", "important", "caution", "warning", "tip"})
BLOCKS = frozenset(
    {
        "p", "div", "section", "article", "header", "footer", "main", "aside", "nav", "figure", "figcaption", "address",
        "blockquote", "center", "ul", "ol", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tfoot", "tr",
        "td", "th", "h1", "h2", "h3", "h4", "h5", "h6", "details", "summary",
    }
) | NOTES  # fmt: skip
_INLINE = frozenset(
    {
        "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd",
        "mark", "pre", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u", "var",
        "fullname",
    }
)  # fmt: skip
KNOWN = BLOCKS | _INLINE | VOID
_PROGRAM = frozenset(
    {
        "html", "head", "body", "script", "style", "meta", "link", "form", "input", "button", "select", "textarea",
        "canvas", "svg", "template", "iframe", "video", "audio", "label",
    }
)  # fmt: skip
_OFTEN_UNCLOSED = frozenset({"p", "li", "tr", "td", "th", "dt", "dd"})

_ATTRIBUTES = r"""(?:\s+[\w:@.-]+\s*=\s*(?:"[^"<>\x03]*"|'[^'<>\x03]*'|[^\s"'<>=`\x03]+))*\s*/?"""
TAG = re.compile(rf"<(/?)([A-Za-z][A-Za-z0-9]*)({_ATTRIBUTES})>")
_PROGRAM_TAG = re.compile(rf"<(?:!doctype\b|(?:{'|'.join(sorted(_PROGRAM))})\b[^<>]*>)", re.IGNORECASE)
_STRING_LITERAL = re.compile(r"""[=(\[{+:]\s*["']\s*</?[A-Za-z]""")
_CODE_LINE = re.compile(
    r"^[ \t]*(?:(?:def|class)\b[^\n]*:"
    r"|(?:function|const|let|var|return|import|export|public|private|protected|#include|using|package)\b[^\n]*[;{(])"
    r"[ \t]*$",
    re.MULTILINE,
)
_LINE_START = re.compile(r"(?:\A|[\n>.:!?])[ \t]*\Z")
_SUBJECT = re.compile(
    r"(?<![a-z])(?:x?html5?|xml|css|svg|jsx|tsx|react|vue|angular|markup|web ?pages?|websites?)(?![a-z])"
    r"|网页|网站|标签|前端|網頁",
    re.IGNORECASE,
)

# Names whose only use is to escape text. `&sum;` and `&image;` are addresses in C, so the other names stay.
_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|[mn]dash|hellip|[lr][sd]quo|[lr]aquo|copy|reg|trade|bull|middot|deg|euro|times"
    r"|[a-zA-Z](?:acute|grave|uml|circ|cedil|tilde|ring)|szlig|#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6});"
)
_RAW_SPECIAL = re.compile(r"[<>]|&(?!#?\w{1,31};)")
_ABOUT_ESCAPING = re.compile(r"html|xml|entit|escap|encod|转义|實體|实体", re.IGNORECASE)


def asks_about_markup(question: str) -> bool:
    """Return True if a question, free of markup itself, is about markup: then tags are the subject of the answer."""
    return _SUBJECT.search(question) is not None and not has_markup(question)


def is_program(text: str) -> bool:
    """Return True if the text's tags are a program: a whole page, a form, a string literal, lines of code."""
    return any(pattern.search(text) for pattern in (_PROGRAM_TAG, _STRING_LITERAL, _CODE_LINE))


def has_markup(text: str) -> bool:
    """Return True if the text has HTML's own tags: a closed pair, a void tag, or an unclosed one that begins a line.

    `a < b`, `List<int>`, `<T>` and `<think>…</think>` are no markup.
    """
    if "<" not in text:
        return False
    opened: set[str] = set()
    for match in TAG.finditer(text):
        name = match[2].lower()
        if name not in KNOWN:
            continue
        if match[1]:
            if name in opened:
                return True
        elif _stands_alone(name, match, text):
            return True
        else:
            opened.add(name)
    return False


def _stands_alone(name: str, match: re.Match[str], text: str) -> bool:
    if name in VOID:
        return name != "img" or "src" in match[3]
    return name in _OFTEN_UNCLOSED and _LINE_START.search(text, max(0, match.start() - 8), match.start()) is not None


def decode_entities(text: str) -> str:
    """Return a text without tags with its entities decoded, unless it is about them or has raw `<`, `>`, `&`."""
    if "&" not in text or not _ENTITY.search(text) or _RAW_SPECIAL.search(text) or _ABOUT_ESCAPING.search(text):
        return text
    return _ENTITY.sub(lambda match: html.unescape(match[0]).replace("\xa0", " "), text)
