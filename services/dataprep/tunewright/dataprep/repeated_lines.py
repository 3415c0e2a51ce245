"""Page furniture in plain documents: blocks of short lines that stand at the edges of many documents of one upload.

Menus, banners, footers and share bars of a site are the same on each of its pages; what pages say is not. So no words
are listed: lines are counted by the documents that hold them. Only whole blocks at a document's beginning or end go,
and never most of a document. What stays and goes is measured by bench/page_furniture.py. Knows no files and no rows.
"""

import re
from collections import Counter
from collections.abc import Iterable

RULE = "repeated_lines"
WORDS = "Blocks of lines removed that many documents of the upload begin or end with"
LEAST_DOCUMENTS = 10
LEAST_SHARE = 0.01
"""Documents that hold a short line, at least, and their share of all documents looked at."""
LEAST_SENTENCES = 20
LEAST_SENTENCE_SHARE = 0.05
"""The same for lines that are sentences: notices are, but so is what people say again and again."""
LEAST_BLOCK = 3
"""Repeated lines, one after the other, that make a block of furniture."""
MOST_REMOVED = 0.5
"""Share of a document's characters; one of which more would go stays whole."""
_MOST_WORDS = 8
_LONGEST_MENU_LINE = 60
_LONGEST_LINE = 300
_LONGEST_SIGN = 2
"""Characters of a line without letters, such as an arrow or a bullet."""
_MOST_CJK = 12
"""Characters of a script without spaces in a line as short as a menu's."""
# Headings, quotes, tables, comments and numbers of a text; code, what it brings in, fields (`Type: String`), paths.
_CONTENT = re.compile(
    r"^(?:#|>|\||//|/\*|\*/|\d+[.)]|[a-z]\)|第\w{1,4}[条章节款])"
    r"|^(?:import|from|use|using|package|include|require|open|module|extern|with)\b"
    r"|[=;{}<>`\\]|::|->|\w\(|[:：](?:\s|$)|：|https?://|\$"
)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_SENTENCE_END = re.compile(r"[.!?。！？…]['\")\]”’]*$")
_INDENT = re.compile(r"^(?: {4,}|\t)")


def find_repeated(texts: Iterable[str]) -> frozenset[str]:
    """Return the lines that are a site's rather than a document's; equal documents count once."""
    lines: Counter[str] = Counter()
    seen: set[int] = set()
    for text in texts:
        if (own := hash(text)) in seen:
            continue
        seen.add(own)
        lines.update({line for raw in text.split("\n") if (line := _comparable(raw))})
    short = max(LEAST_DOCUMENTS, LEAST_SHARE * len(seen))
    long = max(LEAST_SENTENCES, LEAST_SENTENCE_SHARE * len(seen))
    return frozenset(line for line, count in lines.items() if count >= (short if _is_menu_like(line) else long))


def without_blocks(text: str, repeated: frozenset[str], *, begins: bool = True, ends: bool = True) -> str:
    """Return the text without blocks of repeated lines at its beginning and its end.

    Args:
        text: a document, or a piece of one.
        repeated: what `find_repeated` found.
        begins: whether the document begins with the text.
        ends: whether it ends with it.
    """
    lines = text.split("\n")
    top = _block(lines, repeated) if begins else 0
    bottom = len(lines) - (_block(lines[:top:-1] if top else lines[::-1], repeated) if ends else 0)
    if not top and bottom == len(lines):
        return text
    kept = "\n".join(lines[top:bottom]).strip("\n")
    return kept if len(kept) >= (1 - MOST_REMOVED) * len(text) else text


def _block(lines: list[str], repeated: frozenset[str]) -> int:
    """Return how many lines a block at the beginning takes; 0 if there is none.

    A line that the block has already ends it: a site's name stands in its menu, and may be a document's title.
    """
    block: set[str] = set()
    end = 0
    for number, raw in enumerate(lines):
        if not raw.strip():
            continue
        line = _comparable(raw)
        if line not in repeated or line in block:
            break
        block.add(line)
        end = number + 1
    return end if len(block) >= LEAST_BLOCK else 0


def _comparable(line: str) -> str:
    """Return a line as it is counted, empty if it may be content."""
    if _INDENT.match(line):
        return ""
    line = " ".join(line.split()).lstrip("-*•· ").strip()
    if not 0 < len(line) <= _LONGEST_LINE:
        return ""
    if _CONTENT.search(line) or (len(line) > _LONGEST_SIGN and not any(map(str.isalpha, line))):
        return ""
    return line


def _is_menu_like(line: str) -> bool:
    short = (
        len(line) <= _LONGEST_MENU_LINE and len(line.split()) <= _MOST_WORDS and len(_CJK.findall(line)) <= _MOST_CJK
    )
    return short and not _SENTENCE_END.search(line) and line[-1:] not in {",", ")"}
