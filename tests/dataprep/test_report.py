"""The page is self-contained, escaped, complete, small; its figures are those of the files; it shows nobody's data."""

import random
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.dataprep.preparation import Prepared, pair, prepare, prepare_inputs, to_jsonl
from tunewright.dataprep import histograms, plots
from tunewright.dataprep.excerpts import drop_example, excerpt, hidden
from tunewright.dataprep.page import difference, visible
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.tally import Counts, Shown

ROOT = Path(__file__).parents[2]
SECRETS = {
    "emails": "jane.miller@gmail.com",
    "phones": "+44 20 7946 1234",
    "cards": "5500 0055 5555 5559",
    "ibans": "DE89 3704 0044 0532 0130 00",
    "national_ids": "11010519491231002X",
    "secrets": "ghp_x7Kq29aLq8Zw0Tn3Bv7Rm5Yc1Hd6Gf2Js9Pt",
}

ATTACK = '</pre><script>alert("x")</script><img src=x onerror=alert(1)>{{ 7*7 }}'
VOID = {"meta", "rect", "line", "polyline", "br", "img", "link"}


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
    addresses = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "srcset"}]
    assert [address for address in addresses if not (address or "").startswith("#")] == []
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
        assert sum(lengths["before"]) == 109
        assert len(lengths["edges"]) == len(lengths["counts"]) + 1
        assert lengths["edges"][0] <= lengths["min"] <= lengths["median"] <= lengths["max"] < lengths["edges"][-1]
    for text in (
        "100 clean rows from 110",
        "110 rows in = 100 kept + 10 dropped",
        "duplicate",
        "invalid_json",
        "&lt;p&gt;",
        document["fingerprint"],
        "Before",
    ):
        assert text in result.page
    assert result.page.count("<svg") == len(document["lengths"]) == 2
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


def everywhere(secret: str) -> list[object]:
    """Rows that bring a piece of text into every part of a report."""
    text = f"Write to {secret} if the parcel does not come, or ask at the counter of the shop in the old town."
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    return [
        *(pair(f"How is parcel {n} sent to {secret}?", f"{text} Number {n}.") for n in range(12)),
        *(pair(f"How is parcel {n} sent to {secret}?", f"{text} Number {n}.") for n in range(3)),
        pair(f"{words} asked by {secret}?", f"{text} {words} {words} {words}"),
        pair(f"{words} asked by {secret}?", f"{text} {words} {words} {words} seventeen"),
        pair("Which one?", f"<p>{text}</p>\u200b"),
        pair("Which one?", f"{text} It is the other one."),
        pair("Long?", f"{'x ' * 280} {secret} {text * 400}"),
        pair("Refused?", f"As an AI language model, I cannot call {secret}."),
        f'{{"instruction": "broken {secret}", "output": ',
        f'{{"instruction": "broken", "{secret}": 1, "output": 3}}',
    ]


@pytest.mark.parametrize("kind", SECRETS)
@pytest.mark.parametrize("handling", ["mask", "drop", "keep"])
def test_no_personal_data_stands_in_the_report_whatever_is_done_with_it(
    tmp_path: Path, kind: str, handling: str
) -> None:
    secret = SECRETS[kind]
    rows = [*everywhere(secret), *(pair(f"q {n}", f"an answer {n}") for n in range(20))]
    result = prepare(tmp_path, rows, pii={kind: handling})
    for name in ("report.json", "report.html"):
        text = (result.output / name).read_text(encoding="utf-8")
        assert secret not in text
        assert secret[: len(secret) // 2] not in text
        assert "parcel" in text
    assert (secret in (result.output / "train.jsonl").read_text(encoding="utf-8")) == (handling == "keep")


def test_a_secret_cut_by_the_end_of_an_excerpt_is_hidden_whole() -> None:
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{'MIIEpAIBAAKCAQEA7x9Qz2Lk4 ' * 60}\n-----END RSA PRIVATE KEY-----"
    shown = excerpt(f"{'a ' * 250}{key}")
    assert len(shown) == 601
    assert "MIIE" not in shown
    assert hidden("mail jane.miller@gmail.com now") == "mail ••••.••••••@•••••.••• now"


def test_files_are_shown_as_they_were_recognised(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = [
        *(pair(f"第{n}个问题是什么？", f"这是第{n}个答案，说明了这个问题的所有细节。") for n in range(30)),
        "{broken",
        "[1]",
    ]
    (tmp_path / "in" / "问答.jsonl").write_bytes(to_jsonl(rows).decode().encode("gb18030"))
    (tmp_path / "in" / "shop.csv").write_text("prompt,completion\n" + "".join(f"q{n},answer {n}\n" for n in range(9)))
    result = prepare_inputs(tmp_path, {"upload_000": tmp_path / "in"})
    csv, chinese = result.document["files"]
    assert (csv["layout"], csv["encoding"], csv["shape"], csv["unreadable_lines"]) == (
        "CSV",
        "UTF-8",
        "prompt_completion",
        [],
    )
    assert (chinese["encoding"], chinese["unreadable"], chinese["unreadable_lines"]) == ("GB18030", 2, [31, 32])
    assert chinese["encoding_confidence"] < 1
    assert "lines 31, 32" in result.page
    assert result.document["languages"]["counts"]["zh"] == 30


def test_near_duplicates_stand_side_by_side_with_what_decided(tmp_path: Path) -> None:
    text = " ".join(f"word{n}" for n in range(80))
    rows = [pair("Tell me all.", text), pair("Tell me all.", f"<p>{text}</p> word80"), pair("other", "thing")]
    result = prepare(tmp_path, rows, split={"validation_fraction": 0})
    shown = result.document["near_duplicates"]
    assert (shown["clusters"], shown["dropped"], shown["largest"]) == (1, 1, 2)
    (cluster,) = shown["examples"]
    (gone,) = cluster["dropped"]
    assert (cluster["kept"]["line"], gone["line"]) == (1, 2)
    assert 0.8 <= gone["similarity"] < 1
    assert gone["why"] == "changed by 1 rule of cleaning, the kept row by none"
    assert "<del> word80</del>" in re.sub(r"\s+", " ", result.page)


def test_conflicts_are_shown_with_their_answers(tmp_path: Path) -> None:
    rows = [pair("How old is it?", "Ten years."), pair("How old is it?", "Nobody knows that."), pair("q", "a")]
    result = prepare(tmp_path, rows, conflicts={"action": "keep_best"})
    shown = result.document["conflicts"]
    assert (shown["action"], shown["questions"], shown["rows"]) == ("keep_best", 1, 2)
    assert [answer["kept"] for answer in shown["examples"][0]["answers"]].count(True) == 1


@pytest.mark.parametrize(
    ("row", "charts"),
    [
        ({"text": "A document of some words, number {}."}, {"answer": "Documents"}),
        (
            {"prompt": "Say {}!", "chosen": "{}, gladly.", "rejected": "No {}."},
            {"question": "Prompts", "answer": "Chosen"},
        ),
    ],
)
def test_documents_and_pairs_have_charts_of_what_they_are(
    tmp_path: Path, row: dict[str, str], charts: dict[str, str]
) -> None:
    rows = [{name: text.replace("{}", f"thing{n}") for name, text in row.items()} for n in range(20)]
    result = prepare(tmp_path, rows)
    lengths = result.document["lengths"]
    assert lengths.keys() == charts.keys()
    for name, words in charts.items():
        assert lengths[name]["counts"] == lengths[name]["before"]
        assert f"<h3>{words}" in result.page


def test_a_reason_names_the_setting_behind_it(tmp_path: Path) -> None:
    rows = [pair("q", "y" * 300), *(pair(f"q{n}", f"<b>a</b> {n}") for n in range(9))]
    settings = prepare(tmp_path, rows, filters={"max_chars": 200}).document["settings"]
    assert settings == {"too_long": "filters.max_chars: 200", "html": "cleaning.html: true"}


@pytest.mark.heavy
def test_the_report_of_many_huge_rows_stays_below_two_megabytes(tmp_path: Path) -> None:
    draw = random.Random(0)  # noqa: S311 - test data
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(3000)]
    huge = " ".join(draw.choices(words, k=12_500))
    rows = [
        *(pair(f"{huge[n:]} {n}?", f"<p>{huge[n:]}</p>") for n in range(50)),
        *(pair(f"same {n % 5}?", f"{huge[:60_000]} {n}") for n in range(40)),
        *(f"{{{huge}" for _ in range(10)),
        *(pair(f"question {n}", f"<b>answer</b> {n}") for n in range(99_900)),
        {**pair("wide", "row"), **{f"field {n} {huge[:200]}": n for n in range(2000)}},
    ]
    result = prepare(tmp_path, rows, filters={"max_chars": 1_000_000})
    assert result.document["rows_in"] == 100_001
    for name in ("report.json", "report.html"):
        assert (result.output / name).stat().st_size < 2_000_000


def documented(result: Prepared) -> set[str]:
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    section = text.split("## report.json")[1].split("\n## ")[0]
    keys = set(re.findall(r"^\| `([a-z_]+)`", section, re.MULTILINE))
    assert keys
    return keys ^ result.document.keys()


def test_every_key_of_report_json_is_documented(tmp_path: Path) -> None:
    assert documented(prepare(tmp_path, [pair(f"q {n}", f"a {n}") for n in range(10)])) == set()


def test_parts_of_a_bar_fill_it_and_none_vanishes() -> None:
    parts = plots.stack([("kept", 999_999), ("rare", 1), ("none", 0)], 1_000_000)
    assert sum(part["width"] for part in parts) == pytest.approx(100, abs=0.01)
    assert parts[1]["width"] > 0.3
    assert parts[2]["width"] == 0


def test_a_histogram_counts_every_length_once() -> None:
    lengths = np.array([0, 1, 9, 10, 11, 12, 99, 100, 10**6])
    shown = histograms.summary(lengths, histograms.bars(np.array([5, 5])), "characters")
    assert sum(shown["counts"]) == 9
    assert sum(shown["before"]) == 2
    assert shown["edges"][0] == 0
    assert shown["edges"][-1] > 10**6
    assert (shown["min"], shown["median"], shown["max"]) == (0, 11, 10**6)


def test_a_block_gives_no_examples_once_earlier_ones_gave_four_whatever_the_order() -> None:
    shown = Shown()

    def gives(block: int, rows: int) -> int:
        counts = Counts(enough=shown.enough(block))
        for row in range(rows):
            if counts.wants_example("refusal"):
                counts.drop("refusal", drop_example("a.jsonl", row, "", "No."))
            before, after = "<b>a</b>", "a"
            turns: list[list[Message]] = [[{"role": "user", "content": text}] for text in (before, after)]
            counts.change("a.jsonl", row, {"html": 0}, *turns)
        shown.note(block, counts)
        assert len(counts.drop_examples.get("refusal", ())) == len(counts.change_examples.get("html", ()))
        return len(counts.drop_examples.get("refusal", ()))

    assert [gives(5, 9), gives(2, 2), gives(2, 2), gives(3, 1), gives(4, 9)] == [4, 2, 2, 1, 4]
    assert [gives(6, 9), gives(5, 9), gives(4, 9), gives(1, 9)] == [0, 0, 4, 4]
