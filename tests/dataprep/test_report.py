"""The page is self-contained, escaped, complete; its figures are those of the files."""

import re
from html.parser import HTMLParser
from pathlib import Path

from tests.dataprep.preparation import pair, prepare
from tunewright.dataprep.page import difference, visible

ATTACK = '</pre><script>alert("x")</script><img src=x onerror=alert(1)>{{ 7*7 }}'
VOID = {"meta", "rect", "line", "br", "img", "link"}


class Page(HTMLParser):
    """Collects tags and attributes, and checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag


def test_a_hostile_row_cannot_put_anything_into_the_page(tmp_path: Path) -> None:
    rows = [
        *(pair(f"{ATTACK} {number}", f"<p>{ATTACK}</p>") for number in range(8)),
        pair(ATTACK + "?", ATTACK),
        pair(ATTACK, ATTACK),
        pair(ATTACK, ""),
        {ATTACK: 1, "instruction": ATTACK},
    ]
    result = prepare(tmp_path, rows, name="<b>raw.jsonl", system_prompt=ATTACK)
    page = Page(result.page)
    assert not {"script", "img", "iframe", "link", "object", "b>"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "49" not in re.findall(r"\{\{.*?\}\}|>49<", result.page)
    assert "<b>raw" not in result.page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in result.page


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    result = prepare(tmp_path, [pair(f"q {number}", "see https://example.org/x.css") for number in range(10)])
    page = Page(result.page)
    assert [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "srcset"}] == []
    assert "url(" not in result.page
    assert "@import" not in result.page


def test_every_figure_of_the_run_stands_on_the_page_and_adds_up(tmp_path: Path) -> None:
    rows = [pair(f"question {n}", f"<p>answer {n % 50} {'x' * n}</p>") for n in range(100)]
    result = prepare(
        tmp_path,
        [*rows, *rows[:7], pair("empty", ""), "{broken", pair("long", "y" * 3000)],
        filters={"max_chars": 2000},
    )
    document = result.document
    assert document["dropped"] == {"invalid_json": 1, "empty_answer": 1, "too_long": 1, "duplicate": 7}
    assert document["rows_in"] == document["rows_out"] + sum(document["dropped"].values()) == 110
    assert document["funnel"] == [
        {"step": "read", "rows": 110},
        {"step": "readable", "rows": 109},
        {"step": "fit", "rows": 107},
        {"step": "unique", "rows": 100},
    ]
    assert document["rows_out"] == document["train_rows"] + document["validation_rows"] == len(result.rows)
    assert document["changed"] == {"html": 107}
    for lengths in document["lengths"].values():
        assert sum(lengths["counts"]) == 100
        assert len(lengths["edges"]) == len(lengths["counts"]) + 1
        assert lengths["edges"][0] <= lengths["min"] <= lengths["median"] <= lengths["max"] < lengths["edges"][-1]
    for text in (
        "100 clean rows from 110",
        "duplicate",
        "invalid_json",
        "&lt;p&gt;",
        document["fingerprint"],
        "Before",
    ):
        assert text in result.page
    assert result.page.count("<svg") == 2
    counted = ("row_kind", "rows_in", "rows_out", "train_rows", "validation_rows", "dropped", "fingerprint")
    assert result.manifest.metrics == {name: document[name] for name in counted}


def test_a_clean_set_says_so(tmp_path: Path) -> None:
    page = prepare(tmp_path, [pair(f"q {number}", f"a {number}") for number in range(10)]).page
    assert "Nothing: every row was readable, fit and unique." in page
    assert "Nothing: the rows were clean already." in page


def test_a_difference_names_what_went_and_what_came() -> None:
    parts = difference("<p>Hello</p>", "Hello")
    assert parts["before"] == [(True, "<p>"), (False, "Hello"), (True, "</p>")]
    assert parts["after"] == [(False, "Hello")]
    assert difference("<p>a b …", "a b c d e")["after"][-1] == (False, "…")


def test_characters_that_nobody_sees_are_shown() -> None:
    assert visible("a\u200bb\x00") == "a⟨U+200B⟩b⟨U+0000⟩"
    assert visible("  \n", spaces=True) == "··↵\n"
