"""Rows that hold a run of a test set are named with the run, whatever stands around it; others are not."""

import pytest

from tunewright.dataprep.contamination import Overlap, build, check
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.spec import Contamination

SPEC = Contamination()
ENGLISH = "A farmer has seventeen sheep and all but nine of them run away before the morning comes"
CHINESE = "一个农夫有十七只羊，除了九只以外都在天亮之前跑掉了，请问他还剩下多少只羊"


def pair(question: str, answer: str = "x") -> list[tuple[str, str]]:
    return [("user", question), ("assistant", answer)]


def found(row: list[tuple[str, str]], *tests: list[tuple[str, str]]) -> list[Overlap]:
    return check(Parts.of([pair("something else"), row]), build({"exam": [Parts.of(list(tests))]}, SPEC))


@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_a_test_question_is_found_inside_a_row_in_any_letters(text: str) -> None:
    (overlap,) = found(pair(f"Think about it. {text.upper()}! And now?"), pair("unrelated"), pair(text))
    assert (overlap.row, overlap.test, overlap.entry) == (1, "exam", 1)
    assert overlap.ngram[:8] in text.casefold()
    assert 0 < overlap.share < 1


def test_a_test_answer_counts_too() -> None:
    assert found(pair("q", ENGLISH), pair("q", ENGLISH))[0].share > 0.9


@pytest.mark.parametrize(("text", "fewer"), [(ENGLISH, 12), (CHINESE, 1000)])
def test_fewer_words_or_characters_in_a_row_than_asked_for_are_no_overlap(text: str, fewer: int) -> None:
    shorter = " ".join(text.split()[:fewer]) if text == ENGLISH else text[:20]
    assert found(pair(f"{shorter} then other things happen altogether, as they do"), pair(text)) == []


def test_a_short_test_question_counts_only_if_a_message_says_no_more() -> None:
    question = "Who wrote the old book?"
    assert found(pair("WHO wrote the old book"), pair(question))[0].ngram == "who wrote the old book"
    assert found(pair("Who wrote the old book? I ask again"), pair(question)) == []
    assert found(pair("Who are you?"), pair("Who are you?")) == []


def test_a_template_of_many_entries_is_not_taken_for_a_leak() -> None:
    entries = [pair(f"{ENGLISH} question number {number}") for number in range(11)]
    assert found(pair(ENGLISH), *entries) == []
    assert len(found(pair(ENGLISH), *entries[:10])) == 1


def test_system_messages_and_empty_test_sets_say_nothing() -> None:
    assert found([("system", ENGLISH), *pair("q")], [("system", ENGLISH), *pair("r")]) == []
    assert found(pair(ENGLISH)) == []
