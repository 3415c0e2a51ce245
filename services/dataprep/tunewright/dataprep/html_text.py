"""HTML to plain text that reads like Markdown: paragraphs, lists, tables and code keep their form.

Parsing is lexbor's (through selectolax). Knows nothing of rows, and not whether it should run: `markup.py` does.
Newlines inside block elements are spaces, as HTML says; outside of any block element they stay, because there people
mixed tags into plain text.
"""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from tunewright.dataprep.code_spans import ANY_TOKEN, FENCE_TOKEN
from tunewright.dataprep.markup import BLOCKS, KNOWN, NOTES, TAG

_START = "\x05"
# Begins with the characters it looks for: so the search runs over all others at once.
_UNESCAPED = re.compile(
    rf"[<&](?:(?<=<)(!--[^\x03]*?-->)|(?<=<){TAG.pattern.removeprefix('<')}|(?<=<)|(?<=&)(?!#?\w{{1,31}};))", re.DOTALL
)
_SPACE = re.compile(r"[ \t\n\r\f]+")
_SKIPPED = frozenset({"script", "style", "head", "title", "noscript", "template"})
_TIGHT = frozenset({"li", "dt", "dd", "tr", "thead", "tbody", "tfoot", "td", "th", "caption"})
_TAKEN_WHOLE = _SKIPPED | {"pre", "code", "tt", "kbd", "samp", "sup"}
_FIRST_BREAK = re.compile(r"\A[ \t]*\n")
_BACKTICKS = re.compile("`+")
_EXPONENT = re.compile(r"[+−-]?\d{1,4}|[a-zA-Z]")
_LANGUAGE = re.compile(r"\b(?:language|lang|highlight-source)-([\w+#-]+)")


def html_to_text(text: str) -> str:
    """Return the text of an HTML fragment; `<` and `&` that belong to no HTML tag or entity stay as they are."""
    body = LexborHTMLParser(_START + _UNESCAPED.sub(_escape_foreign, text)).body
    writer = _Writer()
    if body is not None:
        _walk(body, writer)
    return writer.result()


def _escape_foreign(match: re.Match[str]) -> str:
    found = match[0]
    if match[1]:
        return ""
    if match[3]:
        return found if match[3].lower() in KNOWN else "&lt;" + found[1:]
    return "&lt;" if found == "<" else "&amp;"


def _walk(body: LexborNode, writer: "_Writer") -> None:
    """Visit all nodes in order, without recursion: nesting is as deep as the input likes."""
    parents: list[LexborNode] = []
    node: LexborNode | None = body.child
    while node is not None or parents:
        if node is None:
            node = parents.pop()
            writer.leave(node.tag or "")
            node = node.next
        elif node.tag == "-text":
            writer.text(node.text_content or "")
            node = node.next
        elif writer.enter(node) and node.child is not None:
            parents.append(node)
            node = node.child
        else:
            writer.leave(node.tag or "")
            node = node.next


class _Writer:
    """Collects text; line breaks and list markers wait until something is written after them."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._breaks = 0
        self._marker = ""
        self._items: list[int | None] = []
        self._blocks = 0
        self._row_has_cell = False

    def result(self) -> str:
        """Return all that was written."""
        return "".join(self._parts).removeprefix(_START).lstrip("\n").rstrip(" \n")

    def enter(self, node: LexborNode) -> bool:
        """Begin an element; False if its children are dealt with already."""
        tag = node.tag or ""
        if tag in BLOCKS:
            self._begin_block(tag)
        match tag:
            case "br":
                self._trim_end(" \t")
                self._write("\n")
            case "hr":
                self._block(2)
            case "img":
                self._write((node.attributes.get("alt") or "").strip())
            case "pre":
                self._fence(node)
            case "code" | "tt" | "kbd" | "samp":
                self._code(node)
            case "sup":
                content = _content(node).strip()
                self._collapsed(f"^{content}" if _EXPONENT.fullmatch(content) else content)
            case "q":
                self._write('"')
        return tag not in _TAKEN_WHOLE

    def leave(self, tag: str) -> None:
        """End an element."""
        if tag in {"ul", "ol"} and self._items:
            self._items.pop()
        if tag in BLOCKS:
            self._blocks -= 1
            self._marker = "" if tag not in {"td", "th"} else self._marker
            if tag not in {"td", "th"}:
                self._block(1 if tag in _TIGHT else 2)
        elif tag == "q":
            self._write('"')

    def text(self, text: str) -> None:
        """Write a text node: spaces collapsed inside block elements, as it stands elsewhere."""
        if self._blocks:
            self._collapsed(text)
            return
        fresh = self._breaks or (self._parts and self._parts[-1] == "\n")
        text = _FIRST_BREAK.sub("", text) if fresh else text
        if text.strip() or not self._breaks:
            self._write(text)

    def _collapsed(self, text: str) -> None:
        if "\x03" not in text:  # what tokens of fenced code begin with
            self._flat(text)
            return
        for index, piece in enumerate(_around_fences(text)):
            if index % 2:
                self._fenced_token(piece)
            else:
                self._flat(piece)

    def _flat(self, text: str) -> None:
        flat = _SPACE.sub(" ", text).replace("\xa0", " ")
        waiting = self._breaks or self._marker or not self._parts or self._parts[-1][-1] in " \n"
        self._write(flat.lstrip(" ") if waiting else flat)

    def _fenced_token(self, token: str) -> None:
        self._leave_marker_behind()
        self._block(1)
        self._write(token)
        self._block(1)

    def _begin_block(self, tag: str) -> None:
        self._blocks += 1
        if tag in {"td", "th"}:
            if self._row_has_cell:
                self._write(" | ")
            self._row_has_cell = True
            return
        self._block(1 if tag in _TIGHT else 2)
        if tag in {"ul", "ol"}:
            self._items.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._marker = self._item_marker()
        elif tag == "tr":
            self._row_has_cell = False
        elif tag in NOTES:
            self._marker = f"{tag.capitalize()}: "
        elif tag[0] == "h" and tag[1:].isdigit():
            self._marker = "#" * int(tag[1:]) + " "

    def _item_marker(self) -> str:
        indent = "  " * max(0, len(self._items) - 1)
        if not self._items or (count := self._items[-1]) is None:
            return f"{indent}- "
        self._items[-1] = count + 1
        return f"{indent}{count + 1}. "

    def _block(self, breaks: int) -> None:
        if not self._marker:
            self._breaks = max(self._breaks, min(breaks, 1) if self._items else breaks)

    def _leave_marker_behind(self) -> None:
        """Give a waiting list marker a line of its own (and drop a heading's): a fence begins its line."""
        marker, self._marker = self._marker.rstrip(), ""
        if marker.strip("# "):
            self._break_line()
            self._parts.append(marker)

    def _fence(self, node: LexborNode) -> None:
        code = _content(node).removeprefix("\n").rstrip()
        self._leave_marker_behind()
        self._block(2)
        if ANY_TOKEN.search(code):
            self._verbatim(code)
        elif code.strip():
            fence = "`" * max(3, 1 + max((len(run) for run in _BACKTICKS.findall(code)), default=0))
            self._write(f"{fence}{_language(node)}\n{code}\n{fence}")
        self._block(2)

    def _verbatim(self, text: str) -> None:
        """Write text that has Markdown code in it already: no second fence around it."""
        for index, piece in enumerate(_around_fences(text)):
            if index % 2:
                self._fenced_token(piece)
            else:
                self._write(piece.strip("\n"))

    def _code(self, node: LexborNode) -> None:
        content = _content(node)
        code = _SPACE.sub(" ", content).strip()
        if not code or "`" in code or ANY_TOKEN.search(code):
            self._collapsed(content)
        else:
            self._write(f"`{code}`")

    def _write(self, text: str) -> None:
        if not text or ((self._breaks or self._marker) and not text.strip(" ")):
            return
        indent = "  " * len(self._items) if self._breaks and self._parts and not self._marker else ""
        self._break_line()
        self._parts.append(indent + self._marker + text)
        self._marker = ""

    def _break_line(self) -> None:
        if self._breaks and self._parts:
            self._trim_end(" \t\n")
            self._parts.append("\n" * self._breaks)
        self._breaks = 0

    def _trim_end(self, characters: str) -> None:
        while self._parts:
            last = self._parts.pop().rstrip(characters)
            if last:
                self._parts.append(last)
                return


def _around_fences(text: str) -> list[str]:
    """Return text and tokens of fenced code by turns, text first."""
    pieces: list[str] = []
    position = 0
    for match in FENCE_TOKEN.finditer(text):
        pieces += [text[position : match.start()], match[0]]
        position = match.end()
    return [*pieces, text[position:]]


def _content(node: LexborNode) -> str:
    """Return all text below a node, verbatim, with the line breaks of `<br>`."""
    texts: list[str] = []
    for child in node.traverse(include_text=True):
        if child.tag == "-text":
            texts.append(child.text_content or "")
        elif child.tag == "br":
            texts.append("\n")
    return "".join(texts)


def _language(node: LexborNode) -> str:
    inner = node.child
    names = [node.attributes.get("class"), inner.attributes.get("class") if inner is not None else None]
    found = _LANGUAGE.search(" ".join(name for name in names if name))
    return found[1] if found else ""
