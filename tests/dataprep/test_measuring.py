"""What is measured of repetition is what counting n-grams one by one finds."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataprep import measuring

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "Dd", "e7", "12"]), min_size=1, max_size=12)
SIGNS = st.lists(st.sampled_from("你好吗我是谁们的"), min_size=1, max_size=24)
PASSAGES = st.lists(st.tuples(st.one_of(WORDS, SIGNS), st.integers(1, 4)), min_size=1, max_size=8)


def text_of(passages: list[tuple[list[str], int]]) -> str:
    return " ".join(" ".join(passage) for passage, times in passages for _ in range(times))


def repeated_share(units: list[str], width: int) -> float:
    """Return the share of characters in n-grams that stood before."""
    seen, covered = set[tuple[str, ...]](), set[int]()
    for place in range(len(units) - width + 1):
        gram = tuple(units[place : place + width])
        covered |= set(range(place, place + width)) if gram in seen else set()
        seen.add(gram)
    return sum(len(units[place]) for place in covered) / sum(map(len, units))


def top_share(units: list[str], width: int) -> float:
    """Return the share of characters that the n-gram with most of them takes, of those that stand twice or more."""
    counts = Counter(tuple(units[place : place + width]) for place in range(len(units) - width + 1))
    most = max((count * sum(map(len, gram)) for gram, count in counts.items() if count > 1), default=0)
    return most / sum(map(len, units))


@settings(max_examples=300, deadline=None)
@given(PASSAGES)
def test_repeated_passages_are_counted_as_one_by_one(passages: list[tuple[list[str], int]]) -> None:
    text = text_of(passages)
    units = [unit for unit in re.findall(r"[a-z0-9]+|[一-鿿]", text.lower()) if not unit.isdigit()]
    row = measuring.measure([text])[0]
    assert row[measuring.UNITS] == len(units)
    if len(units) < 100:
        assert row[measuring.DISTINCT] == len(set(units))
    if len(units) < 20:
        assert row[measuring.DUPLICATE_5] == row[measuring.TOP_2] == 0
        return
    step = 2 if 2 * sum(unit >= "一" for unit in units) >= len(units) else 1
    assert row[measuring.TOP_2] == pytest.approx(top_share(units, 2 * step))
    assert row[measuring.DUPLICATE_5] == pytest.approx(repeated_share(units, 5 * step))


@settings(max_examples=200, deadline=None)
@given(st.text("aB9 \n.-#…。你é½`_~", max_size=60))
def test_letters_capitals_and_visible_characters_are_counted(text: str) -> None:
    text = text.replace("`", "'").replace("~", "-")  # no fenced code, which is left out
    row = measuring.measure([text])[0]
    words = re.findall(r"[a-z0-9é½]+", text.lower())  # ½ is no letter of ASCII's kind, but of Latin-1's second half
    words = [word for piece in words for word in piece.split("½") if word and not word.isdigit()]
    assert row[measuring.CAPITALS] == text.count("B")
    assert row[measuring.VISIBLE] == sum(not sign.isspace() for sign in text)
    letters = sum(not sign.isdigit() for word in words for sign in word)
    assert row[measuring.LETTERS] == letters + text.count("你")
