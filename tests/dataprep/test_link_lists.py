"""Menus of web pages that mark none go; lists, tables, code and sentences with links stay, in every script."""

import pytest
from selectolax.lexbor import LexborHTMLParser

from tunewright.dataprep.readers.documents import page_text


def items(*texts: str) -> str:
    return "<ul>" + "".join(f"<li>{text}</li>" for text in texts) + "</ul>"


def links(*texts: str) -> list[str]:
    return [f"<a href=/{number}>{text}</a>" for number, text in enumerate(texts)]


MENU = items(*links("Home", "Sports", "World News", "Share this on Facebook", "About us"))


def read(body: str) -> str:
    return page_text(LexborHTMLParser(f"<!doctype html><html><body>{body}</body></html>"))


def test_a_run_of_blocks_that_are_links_alone_goes() -> None:
    assert read(f"<div>{MENU}</div><p>The harbour <a href=/>of Lima</a> is old.</p>{MENU}") == (
        "The harbour of Lima is old."
    )
    assert (
        read("<p>港口很古老。</p>" + items(*links("首页", "体育新闻", "国际", "关于我们", "联系我们")))
        == "港口很古老。"
    )
    bars = "<br>".join(links("Home", "Sports", "World", "Money", "Jobs"))
    assert read(f"<p>The harbour is old.</p><div>{bars}</div>") == "The harbour is old."


@pytest.mark.parametrize(
    "body",
    [
        items(*links("One", "Two", "Three", "Four")),
        items(*(f"{link}: what it is for" for link in links("a", "b", "c", "d", "e", "f"))),
        items("Apples", "Pears", "Plums", "Figs", "Dates", "Nuts"),
        "<table>" + "".join(f"<tr><td>{link}</td></tr>" for link in links(*"abcdef")) + "</table>",
        "<pre>" + "\n".join(links(*"abcdef")) + "</pre>",
        items(*links(*(f"The paper number {n} of this very list tells what nobody had told before" for n in range(6)))),
        f"<main>{MENU}</main>",
        f"<article>{MENU}</article>",
        "<p>" + ", ".join(links(*"abcdefg")) + "</p>",
        "<p>" + " ".join(items(link) + "<p>What it says, in words.</p>" for link in links(*"abcdef")) + "</p>",
    ],
    ids=["few", "described", "no links", "table", "code", "sentences", "main", "article", "one line", "headings"],
)
def test_what_may_be_content_stays_to_the_last_word(body: str) -> None:
    said = LexborHTMLParser(body).text(separator=" ").split()
    kept = read(body)
    assert [word for word in said if word not in kept] == []


def test_deep_nesting_is_survived() -> None:
    deep = "<div>" * 20_000
    assert read(f"{deep}{MENU}<p>The harbour is old.</p>") == "The harbour is old."
