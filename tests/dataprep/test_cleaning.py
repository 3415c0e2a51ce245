"""Cleaning repairs dirt and never harms code, line breaks, maths or other scripts; cleaning twice is cleaning once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataprep.cleaning import RULES, clean_messages
from tunewright.dataprep.cleaning import clean_text as clean_with
from tunewright.dataprep.scanning import scan
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import Cleaning

UNTOUCHED = [
    "if a < b and c > d: pass",
    "List<int> xs = new ArrayList<>(); Map<String, List<T>> m;",
    "a<b>c and vector<i> but x<p>y",
    "template <typename T> class Box { T value; };",
    "#include <vector>\nint main() { return a<b>(c); }",
    "def f(x):\n    if x < 1:\n        return x\n\n    return f(x - 1)",
    "```html\n<p>Keep   me</p>  \n\n\n<b>x</b> &lt;\n```",
    "Use `<b>text</b>` for bold and `&amp;` for an ampersand.",
    "<think>step by step</think> 42",
    '<tool_call>{"name": "f"}</tool_call>',
    'html = "<p>hello</p>"\nprint(html)',
    "<!DOCTYPE html>\n<html>\n<body><p>Hi</p></body>\n</html>",
    "<form action='/x'><b>Name</b> <input name='n'></form>",
    "int *p = &sum; long q = &image; x &= 3; a && b; AT&T; ?a=1&copy=2",
    "To show < write &lt; in HTML",
    "How do I write &lt; as an entity?",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "# Title\n\n- one\n  - two\n\n1. three",
    "$x < y$ and $$\\sum_{i=1}^{n} x_i$$",
    "    indented first\n        and more",
    "\tif (x)\n\t\treturn;",
    "他说：“你好”，然后走了。\n第二行",
    "می‌خواهم",
    "क्‍ष",
    "family 👨‍👩‍👧 emoji",
    "½ ℌ ① ﬁ",
]

REPAIRED = {
    "a\r\nb\rc\u2028d": ("a\nb\nc\nd", {"line_endings"}),
    "bell\x07 nul\x00 del\x7f": ("bell nul del", {"control_characters"}),
    "don\x92t \x93x\x94": ("don’t “x”", {"control_characters"}),
    "zero\u200bwidth\ufeff soft\xadhyphen word\u200djoiner": (
        "zerowidth softhyphen wordjoiner",
        {"invisible_characters"},
    ),
    "e\u0301": ("é", {"unicode"}),
    "a  \nb\t\nc": ("a\nb\nc", {"trailing_space"}),
    "\n\n  hello\n": ("hello", {"outer_space"}),
    "<p>One</p><p>Two &amp; three</p>": ("One\n\nTwo & three", {"html"}),
    "Line one<br>line two<br/>\nline three": ("Line one\nline two\nline three", {"html"}),
    "plain\n  text <b>bold</b>\n    more": ("plain\n  text bold\n    more", {"html"}),
    "<p>if a < b then List<int> &amp; x</p>": ("if a < b then List<int> & x", {"html"}),
    "<p>x <think>y</think></p>": ("x <think>y</think>", {"html"}),
    "<pre><code class='language-py'>if a &lt; b:\n    f()</code></pre>": (
        "```py\nif a < b:\n    f()\n```",
        {"html"},
    ),
    "<p>Call <code>f(a&lt;b)</code> now</p>": ("Call `f(a<b)` now", {"html"}),
    "<ul><li>one</li><li><p>two</p><p>more</p><ul><li>in</li></ul></li></ul>": (
        "- one\n- two\n  more\n  - in",
        {"html"},
    ),
    "<ol><li>first</li><li>second</li></ol><p>end</p>": ("1. first\n2. second\n\nend", {"html"}),
    "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>": ("a | b\n1 | 2", {"html"}),
    "<h2>Title</h2><p>10<sup>5</sup> and H<sub>2</sub>O, 1<sup>st</sup></p>": (
        "## Title\n\n10^5 and H2O, 1st",
        {"html"},
    ),
    "<ul><li><pre>a\n  b</pre></li><li>c</li></ul>": ("-\n  ```\na\n  b\n```\n- c", {"html"}),
    "<h1>\n```\n<b>x</b>\n```\n</h1><p>y</p>": ("```\n<b>x</b>\n```\n\ny", {"html"}),
    "<note> <p>Careful.</p> </note>": ("Note: Careful.", {"html"}),
    "<p>See <a href='https://x.org'>the page</a><img src='a.png' alt=' (figure)'></p><script>x()</script>": (
        None,
        set(),
    ),
    "Tom &amp; Jerry&#39;s &quot;day&quot;&nbsp;out": ('Tom & Jerry\'s "day" out', {"html"}),
    "&lt;p&gt;two layers&lt;/p&gt;": ("two layers", {"html"}),
    "<p>before</p>\n```\n<p>code</p>  \n```\n<p>after</p>": ("before\n\n```\n<p>code</p>  \n```\n\nafter", {"html"}),
    "<p>中文<b>粗体</b>段落</p><p>第二段</p>": ("中文粗体段落\n\n第二段", {"html"}),
    "Itâ€™s a cafÃ©": ("It’s a café", {"mojibake"}),
    "The answer.\n\nSubscribe to our newsletter!": ("The answer.", {"boilerplate_lines"}),
}


def clean_text(text: str) -> tuple[str, set[str]]:
    """Clean an answer with every rule on."""
    return clean_with(text, Cleaning(), is_answer=True)


@pytest.mark.parametrize("text", UNTOUCHED)
def test_code_markdown_maths_and_other_scripts_are_left_alone(text: str) -> None:
    assert clean_text(text) == (text, set())


@pytest.mark.parametrize("text", REPAIRED)
def test_dirt_is_repaired_and_the_rule_is_named(text: str) -> None:
    expected, rules = REPAIRED[text]
    assert clean_text(text) == (text if expected is None else expected, rules)


def test_html_stays_where_it_is_switched_off() -> None:
    assert clean_with("<p>One</p>", Cleaning(html=False)) == ("<p>One</p>", set())


def test_tags_stay_where_the_question_is_about_them_and_go_where_it_is_not() -> None:
    answer = "<ul><li>one</li></ul>"
    about: list[Message] = [
        {"role": "user", "content": "Write a list in HTML"},
        {"role": "assistant", "content": answer},
    ]
    other: list[Message] = [{"role": "user", "content": "Name one"}, {"role": "assistant", "content": answer}]
    kept, cleaned = clean_messages(about, Cleaning()), clean_messages(other, Cleaning())
    assert (kept.messages[1]["content"], kept.rules, kept.markup_left) == (answer, {}, True)
    assert (cleaned.messages[1]["content"], cleaned.rules, cleaned.markup_left) == ("- one", {"html": 1}, False)


def test_every_rule_that_can_fire_has_words_for_people() -> None:
    fired = set().union(*(rules for _, rules in REPAIRED.values()))
    assert fired == set(RULES)


PIECES = st.sampled_from(
    [
        "<p>", "</p>", "<b>", "</b>", "<br>", "<ul><li>", "</li></ul>", "<pre>", "</pre>", "<code>", "</code>", "<div>",
        "</div>", "<table><tr><td>", "</td></tr></table>", "<h1>", "</h1>", "<note>", "</note>", "<script>", "<T>",
        "&lt;", "&gt;", "&amp;", "&#8203;", "&#x1;", "&nbsp;", "&", "<", ">", "`", "``", "```", "\n```\n", "~~~\n",
        "\n", "\r\n", " ", "\t", "\x00", "\x03", "\x85", "\xa0", "\u200b", "\u200d", "\ufeff", "\u2028", "e\u0301",
        "é", "\u037e", "\u1fef", "中文", "。", "word", "x = 1;", "def f():", '"', "'", "=", "- ", "    ", "<!--", "-->",
        "<a href='x'>", "</a>", "<img src=a>", "<sup>", "</sup>", "1", "<q>", "</q>",
    ]
)  # fmt: skip
MESSY = st.lists(st.one_of(PIECES, PIECES, PIECES, st.text(max_size=5)), max_size=14).map("".join)


@settings(max_examples=1500, deadline=None)
@given(MESSY)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once, _ = clean_text(text)
    assert clean_text(once) == (once, set())


@settings(max_examples=400, deadline=None)
@given(text=MESSY, spec=st.sampled_from([Cleaning(), Cleaning(unicode="nfkc")]), is_answer=st.booleans())
def test_rules_that_a_text_s_flags_rule_out_would_change_nothing(text: str, spec: Cleaning, *, is_answer: bool) -> None:
    flags = int(scan([text])[0])
    assert clean_with(text, spec, is_answer=is_answer, flags=flags) == clean_with(text, spec, is_answer=is_answer)


CODE = st.lists(
    st.sampled_from(["if a < b:", "    return x  ", "", "\tx<y>z", "<p>hi</p>", "&lt;", "List<int> q;", "</div>"]),
    min_size=1,
).map("\n".join)


@settings(max_examples=400, deadline=None)
@given(before=MESSY.filter(lambda text: "`" not in text and "~~~" not in text and "\u1fef" not in text), code=CODE)
def test_a_fenced_block_survives_to_the_last_character(before: str, code: str) -> None:
    fence = f"```py\n{code}\n```"
    cleaned, _ = clean_text(f"{before}\n{fence}\nend")
    assert fence in cleaned


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="<&`~"))))
def test_no_line_break_between_lines_with_text_is_lost(words: list[str]) -> None:
    lines = [word for word in words if word]
    cleaned, _ = clean_with("\n".join(lines), Cleaning(boilerplate_lines=False))
    assert cleaned.count("\n") == max(0, len(lines) - 1)


def test_hostile_texts_take_no_more_than_linear_time() -> None:
    for text in (
        "<" * 200_000, "<p>" * 30_000, "<!--" * 20_000, "`" * 200_000, "a" + " " * 200_000 + "b", "&amp" * 60_000,
        "<div>" * 20_000 + "x" + "</div>" * 20_000, "~~~\n" * 20_000, "<a b='" * 20_000, "\u200d" * 100_000 + "é",
        "&amp;" * 50_000,
    ):  # fmt: skip
        cleaned, _ = clean_text(text)
        assert len(cleaned) <= len(text)
