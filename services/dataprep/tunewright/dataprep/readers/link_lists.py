"""Finds menus in web pages that mark none: runs of short blocks that are nothing but links.

Link density, the share of a block's words that are links, parts a page's furniture from its text (Kohlschütter,
Fankhauser, Nejdl: Boilerplate Detection using Shallow Text Features, WSDM 2010; jusText, Pomikálek 2011). Their limits
(0.33, of single blocks) were measured on news; documentation lists links as content, so only runs of pure links go.
What stays and goes by it is measured by bench/page_furniture.py. Knows nothing of words' meaning, of any language.
"""

import re
from dataclasses import dataclass, field

from selectolax.lexbor import LexborNode

from tunewright.dataprep.markup import BLOCKS

LEAST_RUN = 5
"""Blocks of links, one after the other, that make a menu."""
LEAST_DENSITY = 0.9
"""Share of a block's words, 0 to 1, that stand in links."""
MOST_WORDS = 12
"""Of a block of a menu; longer ones are sentences."""
_BREAKS = BLOCKS | {"br", "hr", "form", "fieldset"}
_KEPT = frozenset({"pre", "table", "textarea"})
"""Elements that are blocks of their own and always stay: code, tables."""
_PASSED = frozenset({"script", "style", "noscript", "template"})
_DENSE_SCRIPT = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]")
"""Characters of Chinese, Japanese, Korean: two of them count as a word."""


@dataclass(slots=True)
class _Text:
    """Text between two borders of blocks."""

    nodes: list[LexborNode] = field(default_factory=list)
    words: float = 0.0
    linked: float = 0.0
    """Words of it that stand in links."""

    @property
    def is_link(self) -> bool:
        """Whether it may be an entry of a menu."""
        return bool(self.nodes) and self.words <= MOST_WORDS and self.linked >= LEAST_DENSITY * self.words


def remove_link_lists(body: LexborNode) -> None:
    """Take the texts of menus out of a page; its other texts stay as they are."""
    run: list[_Text] = []
    for text in [*_texts(body), _Text()]:
        if text.is_link:
            run.append(text)
            continue
        if len(run) >= LEAST_RUN:
            for entry in run:
                for node in entry.nodes:
                    node.decompose()
        run = []


def _texts(body: LexborNode) -> list[_Text]:
    """Return the texts of all blocks in order, without recursion: nesting is as deep as the input likes."""
    found = [_Text()]
    parents: list[LexborNode] = []
    links = 0
    node = body.child
    while node is not None or parents:
        if node is None:
            node = parents.pop()
            links -= node.tag == "a"
            _border(found, node)
            node = node.next
            continue
        _border(found, node)
        if node.tag == "-text":
            _add(found[-1], node, node.text_content or "", linked=links > 0)
        elif node.tag in _KEPT:
            found += [_Text(words=MOST_WORDS + 1), _Text()]
        elif node.tag not in _PASSED and node.child is not None:
            links += node.tag == "a"
            parents.append(node)
            node = node.child
            continue
        node = node.next
    return [text for text in found if text.words]


def _border(found: list[_Text], node: LexborNode) -> None:
    if node.tag in _BREAKS and found[-1].words:
        found.append(_Text())


def _add(text: _Text, node: LexborNode, content: str, *, linked: bool) -> None:
    dense = len(_DENSE_SCRIPT.findall(content))
    words = dense / 2 + len((_DENSE_SCRIPT.sub(" ", content) if dense else content).split())
    if words:
        text.nodes.append(node)
        text.words += words
        text.linked += words if linked else 0.0
