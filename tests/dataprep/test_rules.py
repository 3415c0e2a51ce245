"""The guards change nothing but the time; filters drop what they name; a masked or cleaned row is a fixed point."""

# ruff: noqa: E501 - tables and patterns, and Chinese characters, which count twice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataprep import measuring, mojibake, rules
from tunewright.dataprep.guards import MOJIBAKE
from tunewright.dataprep.scanning import scan
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import DataprepSpec

SPEC = DataprepSpec()
PIECES = [
    "word ", "Two words. ", "中文", "。", "，", "\n", " \n", "\t", "\r\n", "<p>", "</p>", "<b>x</b>", "&amp;", "&", "<", "```\n",
    "`", "donâ€™t ", "cafÃ© ", "ÄãºÃÊÀ½ç", "浠婂ぉ澶╂皵", "\u200b", "\xad", "\x00", "\x85", "\u2028", "e\u0301", "\ufffd", "锟斤拷",
    "\u3000", "\xa0", "joe@mail.org ", "+44 20 7946 0123 ", "13812345678", "4532 0151 1283 0366 ",
    "DE89 3704 0044 0532 0130 00 ", "11010519491231002X", "ghp_16C7e42F292c6912E7710c838347Ae178B4a ", "1.2.3 ",
    "As an AI language model, I cannot do that. ", "I'm sorry, but I can't help with that. ", "作为人工智能，我无法回答。", "抱歉，我无法提供。",
    "© 2024 Acme. All rights reserved.", "Subscribe to our newsletter", "版权所有", "点击关注公众号", "I'm unable to assist with that. ",
    "My programming prevents me from that. ", "I do not have real-time data. ", "As a computer program, I cannot. ",
    "ha " * 30, "x = 1;\n", "    y\n", "'", "’", "-", ".", "é", "ñ", "Ã", "か\u3099", "한국",
]  # fmt: skip
MESSY = st.lists(st.one_of(st.sampled_from(PIECES), st.sampled_from(PIECES), st.text(max_size=4)), max_size=8).map(
    "".join
)


def row(answer: str, question: str = "What is it?") -> list[Message]:
    """One question, one answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(MESSY, MESSY), min_size=1, max_size=4))
def test_a_guarded_block_is_treated_as_if_every_rule_looked_at_every_text(pairs: list[tuple[str, str]]) -> None:
    block = [row(answer, question) for question, answer in pairs]
    guarded, whole = rules.apply(block, SPEC), rules.apply(block, SPEC, everywhere=True)
    assert guarded.rows == whole.rows
    assert (guarded.changes, guarded.rejections) == (whole.changes, whole.rejections)
    assert (guarded.masked, guarded.quality.tolist()) == (whole.masked, whole.quality.tolist())


@settings(max_examples=300, deadline=None)
@given(MESSY)
def test_a_treated_row_is_left_alone_the_second_time(answer: str) -> None:
    once = rules.apply([row(answer)], SPEC)
    if not once.rejections:
        assert rules.apply(once.rows, SPEC).changes == {}


LISTED = """Lists the associations between your gateways. You must give one of the following:

- A direct gateway: the response contains all private gateways and transit gateways associated with the direct gateway.
- A private gateway: the response contains the direct gateway.
- A transit gateway: the response contains the direct gateway.
- A direct gateway and a private gateway: the response contains the association between the two gateways.
- A direct gateway and a transit gateway: the response contains the association between the two gateways."""
_SENTENCES = [f"Sentence {word} says what no other of these says about {word[::-1]} and ends." for word in
              ("alpha", "bravo", "delta", "golf", "hotel", "india", "kilo", "lima", "mike", "papa")]  # fmt: skip
LOOPING = " ".join([*_SENTENCES[:6], *["The list goes on with the same thing."] * 4])
HALF_TWICE = " ".join([*_SENTENCES, *_SENTENCES[:5]])
DROPPED = {
    "refusal": [
        "As an AI language model, I cannot have opinions.",
        "I'm sorry, but I can't assist with that request.",
        "I apologize, but I am not able to provide that.",
        "My programming prevents me from speaking of it.",
        "As a digital assistant, I'm not capable of that.",
        "I don't have real-time information, so look elsewhere.",
        "作为一个人工智能语言模型，我无法提供该信息。",
        "抱歉，我不能提供相关内容。",
    ],
    "boilerplate": [
        "© 2024 Acme. All rights reserved.",
        "Share this on Twitter\nRead more",
        "版权所有\n欢迎关注我们的微信公众号",
    ],
    "garbled": ["The value is \ufffd\ufffd today", "锟斤拷锟斤拷"],
    "repetition": ["I think so. " * 40, "哈哈" * 30, "今天天气很好。" * 30, "go " * 25, LOOPING, HALF_TWICE],
}
KEPT = [
    "I'm sorry, I can't find your order. Please send me its number.",
    "I am an AI assistant made by Acme, and I can help with orders.",
    "As an AI engineer, I cannot stress enough how tests help.",
    "抱歉，您的订单已经发出。",
    "We use cookies in cars to keep children quiet, and that is all.",
    "Dear all, the copyright of a work belongs to its author.",
    "one two three four five six seven eight nine ten eleven twelve",
    LISTED,
    "You don't have access to the server: ask its owner for a key, then log in again with it.",
    "| a | b |\n|---|---|\n| 1 | 1 |\n| 1 | 1 |\n| 1 | 1 |\n| 1 | 1 |",
]


@pytest.mark.parametrize(("reason", "answer"), [(reason, text) for reason, texts in DROPPED.items() for text in texts])
def test_a_filter_drops_what_it_names_and_nothing_where_it_is_off(reason: str, answer: str) -> None:
    assert rules.apply([row(answer)], SPEC).rejections[0].reason == reason
    name = {"refusal": "refusals"}.get(reason, reason)
    off = DataprepSpec.from_mapping({"filters": {name: False}})
    assert rules.apply([row(answer)], off).rejections == {}


@pytest.mark.parametrize("answer", KEPT)
def test_ordinary_answers_stay(answer: str) -> None:
    assert rules.apply([row(answer)], SPEC).rejections == {}


def test_only_what_stands_three_times_in_a_row_counts_as_a_loop() -> None:
    passage = "the cat sat on the mat and looked at the moon"
    texts = [f"{passage} {passage}", f"{passage} {passage} {passage}", f"{passage} so {passage} but {passage}"]
    measured = measuring.measure([f"{text} {' '.join(_SENTENCES)}" for text in texts])[:, measuring.IN_A_ROW]
    assert measured[0] == measured[2] == 0
    assert 0.1 < measured[1] < 0.3


def test_languages_are_told_by_script_or_model_and_unsure_rows_stay() -> None:
    spec = DataprepSpec.from_mapping({"filters": {"languages": ["en", "zh"]}})
    answers = [
        "The weather is fine today, so we walk to the park with the children.",
        "今天天气很好，我们带孩子们去公园散步。",
        "Das Wetter ist heute schön, deshalb gehen wir mit den Kindern in den Park.",
        "今日は天気がいいので、子供たちと公園へ散歩に行きます。",
        "ok",
    ]
    done = rules.apply([row(answer) for answer in answers], spec)
    assert {number: one.detail for number, one in done.rejections.items()} == {
        2: "the answer is in de",
        3: "the answer is in ja",
    }


@pytest.mark.parametrize("text", ["今天天气很好，我们去公园散步吧", "如何学习机器学习"])
def test_chinese_that_was_read_as_latin_comes_back(text: str) -> None:
    assert mojibake.repair(text.encode().decode("latin-1")) == text
    assert mojibake.repair(text.encode("gb2312").decode("latin-1")) == text


BROKEN_OR_NOT = st.text("aé’ÃãÄºâ€œ\x80\x9f\xa0\xa1·вЂ℃ĂăА√∞├ñ中浠婂澶\n。", max_size=12)


@settings(max_examples=2000, deadline=None)
@given(BROKEN_OR_NOT)
def test_a_text_that_mojibake_s_patterns_find_is_flagged(text: str) -> None:
    found = mojibake.repair(text) != text or mojibake.is_lost(text)
    assert not found or scan([text])[0] & MOJIBAKE


def test_portuguese_russian_and_chinese_are_not_suspected_of_mojibake() -> None:
    texts = ["A situação não é boa", "два вида", "卡尔·马克思", "é’s", "一个罕见的字：龘"]
    assert [bool(flags & MOJIBAKE) for flags in scan(texts)] == [False, False, False, True, False]


@pytest.mark.parametrize(
    "text", ["Ça va très bien, à bientôt", "Größe: 5 µm ± 2 °C", "ÅÄÖ åäö", "Привет, мир", "龘靐齉爩鱻麤", "«Olá»"]
)
def test_rare_but_right_characters_stay(text: str) -> None:
    assert mojibake.repair(text) == text


def test_worse_form_scores_lower() -> None:
    texts = [
        "Wash the rice, then boil it for twelve minutes in twice its volume of water.",
        "#### %% $$$ @@@ !!! *** &&& ^^^",
    ]
    good, bad = rules.apply([row(text) for text in texts], SPEC).quality
    assert good == 1
    assert bad < 0.5


def test_a_row_below_the_least_quality_is_dropped() -> None:
    spec = DataprepSpec.from_mapping({"filters": {"min_quality": 0.5}})
    assert rules.apply([row("#### %% $$$ @@@ !!! *** &&& ^^^")], spec).rejections[0].reason == "low_quality"
