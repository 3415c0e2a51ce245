"""The guards' pass sees each string it looks for, and is compiled with the tables that stand beside it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataprep import guards, scan_tables, scanning


def test_what_is_compiled_is_made_anew_when_the_tables_change() -> None:
    assert scan_tables.digest() == scanning.TABLES, (
        f"scan_tables.py changed: set TABLES of scanning.py to {scan_tables.digest()!r}, or Numba keeps the old tables"
    )


@pytest.mark.parametrize("flag", [guards.REFUSAL, guards.BOILERPLATE])
def test_each_string_raises_its_flag_at_the_beginning_of_a_word_in_any_case(flag: int) -> None:
    strings = scan_tables.TRIGGERS[flag]
    for wrap in ("{}", "and {}", "好{}", "({}", "{} more", "\n{}"):
        texts = [wrap.format(case(string)) for string in strings for case in (str, str.upper)]
        missed = [text for text, flags in zip(texts, scanning.scan(texts), strict=True) if not flags & flag]
        assert not [text for text in missed if text.lower() in {wrap.format(string) for string in strings}]


def test_words_that_only_look_like_a_string_raise_no_flag() -> None:
    texts = ["said", "aid", "sorrow", "cookery", "copyist", "人工", "ic pa"]
    assert not (scanning.scan(texts) & (guards.REFUSAL | guards.BOILERPLATE)).any()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("aB9 <&@.\n\r\x00é好\u200b…") | st.sampled_from(["sorry", "a@b.org", "call +44 20 7946 1123"])))
def test_a_text_has_the_flags_that_it_has_among_others(texts: list[str]) -> None:
    assert [scanning.scan_one(text) for text in texts] == scanning.scan(texts).tolist()
