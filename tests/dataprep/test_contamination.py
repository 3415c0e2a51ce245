"""Training rows that hold what stands in a test set are found, in every script; what they merely share is not."""

import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataprep.contamination.findings import findings
from tunewright.dataprep.contamination.matching import Matches, match, overlap
from tunewright.dataprep.contamination.table import Table, TestRows, boilerplate_limit, build
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.shapes import Message

Row = list[tuple[str, str]]
ENGLISH = (
    "A baker sells twelve loaves each morning and twice as many in the afternoon. How many loaves does he sell a week?"
)
CHINESE = "一个面包师每天早上卖出十二个面包，下午卖出的数量是早上的两倍，请问他一周总共能卖出多少个面包？"


def table(folder: Path, rows: list[Row], ngram: int = 13) -> Table:
    piece = TestRows(0, 0, range(1, len(rows) + 1), Parts.of(rows))
    return build([piece], ["maths"], ["maths.jsonl"], ngram, folder)


def shares(tests: Table, rows: list[Row], least: float = 0.01) -> dict[tuple[int, int], float]:
    """(row, line of the test row) → share."""
    found = match(Parts.of(rows), tests, least)
    return {
        (row, int(tests.lines[message])): round(share, 4)
        for row, message, share in zip(found.rows.tolist(), found.messages.tolist(), found.shares.tolist(), strict=True)
    }


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        f"Solve this and show your work.\n\n{ENGLISH.upper()} Think hard.",
        ENGLISH.replace(" ", "\n\n").replace(".", " ;"),
        CHINESE,
        f"请回答：{CHINESE.replace('，', ' ')}谢谢",
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant", "text"])
def test_a_test_question_is_found_wherever_it_stands_in_a_row(text: str, role: str, tmp_path: Path) -> None:
    tests = table(tmp_path, [[("user", ENGLISH), ("assistant", "252")], [("user", CHINESE), ("assistant", "252")]])
    row = [("user", "Read."), (role, f"{'Some other words before. ' * 40}{text}{' And some behind.' * 40}")]
    line = 1 if text.isascii() else 2
    assert shares(tests, [row]) == {(0, line): 1.0}


def test_what_only_resembles_a_test_question_is_not_found(tmp_path: Path) -> None:
    tests = table(tmp_path, [[("user", ENGLISH), ("assistant", "252")], [("user", CHINESE), ("assistant", "252")]])
    other = ENGLISH.replace("loaves", "rolls").replace("week", "month").replace("twelve", "eleven")
    cut = " ".join(ENGLISH.split()[:12])
    rows: list[Row] = [[("user", text), ("assistant", "252")] for text in (other, cut, CHINESE[:25], "252")]
    assert shares(tests, rows) == {}


def test_the_share_is_that_of_the_test_rows_message_and_many_quotes_of_one_piece_count_once(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(32)]  # 20 n-grams
    tests = table(tmp_path, [[("user", " ".join(words)), ("assistant", "yes")]])
    piece = " ".join(words[:17])  # 5 of them
    assert shares(tests, [[("user", f"{piece} and {piece}"), ("assistant", piece)]]) == {(0, 1): 0.25}
    assert shares(tests, [[("user", piece), ("assistant", " ".join(words[15:]))]]) == {(0, 1): 0.5}


def test_an_n_gram_is_13_words_or_26_characters_of_chinese(tmp_path: Path) -> None:
    ideographs = "".join(chr(0x4E00 + number) for number in range(26))
    words = " ".join("abcdefghijklm")
    tests = table(tmp_path, [[("user", words)], [("user", ideographs)], [("user", "x y z " + ideographs[:20])]])
    assert tests.totals.tolist() == [1, 1, 1]
    assert table(tmp_path, [[("user", words[:-1])], [("user", ideographs[:-1])]]).totals.tolist() == [0, 0]


def test_a_whole_short_question_counts_alone_from_five_words_on_else_with_its_answer(tmp_path: Path) -> None:
    tests = table(
        tmp_path,
        [[("user", "What is the capital of Peru?"), ("assistant", "Lima")], [("user", "Who?"), ("assistant", "Me.")]],
    )
    rows: list[Row] = [
        [("user", "what is the capital of peru"), ("assistant", "I do not know")],
        [("user", "who"), ("assistant", "me")],
        [("user", "who"), ("assistant", "you")],
        [("user", "What is the capital?"), ("assistant", "Lima")],
        [("assistant", "What is the capital of Peru?"), ("assistant", "Lima")],
    ]
    found = match(Parts.of(rows), tests, 0.5)
    assert found.rows.tolist() == [0, 1]
    assert found.questions.all()


def test_a_prompts_template_that_many_test_rows_share_counts_for_nothing(tmp_path: Path) -> None:
    template = "You are given a sentence below. Decide whether what it says is good or bad, and answer with one word"
    rng = random.Random(1)  # noqa: S311 - made rows, not secrets
    facts = [" ".join(rng.choices("abcdefghijklmnop", k=30)) for _ in range(40)]
    tests = table(tmp_path, [[("user", f"{template}: {fact}"), ("assistant", "good")] for fact in facts])
    assert tests.boilerplate[0] >= len(template.split()) - 12
    other = " ".join(rng.choices("qrstuvwxyz", k=30))
    assert shares(tests, [[("user", f"{template}: {other}"), ("assistant", "good")]]) == {}
    assert shares(tests, [[("user", facts[3]), ("assistant", "good")]])[0, 4] > 0.5


def test_an_equal_message_in_many_test_rows_is_one_and_no_boilerplate(tmp_path: Path) -> None:
    tests = table(tmp_path, [[("user", ENGLISH), ("assistant", str(number))] for number in range(100)])
    assert shares(tests, [[("user", ENGLISH), ("assistant", "no")]]) == {(0, 1): 1.0}


@pytest.mark.parametrize(("rows", "limit"), [(1, 2), (4, 2), (6, 3), (20, 10), (400, 10), (1000, 20), (10_000, 200)])
def test_boilerplate_stands_in_more_than_a_fiftieth_of_the_rows_and_in_more_than_ten(rows: int, limit: int) -> None:
    assert boilerplate_limit(rows) == limit


WORDS: st.SearchStrategy[list[str]] = st.lists(st.sampled_from(["a", "b", "c", "dd", "你", "好"]), max_size=14)


def naive_grams(tokens: list[str], ngram: int) -> set[tuple[str, ...]]:
    found = set()
    for first in range(len(tokens)):
        weight, last = 0, first
        while last < len(tokens) and weight < 2 * ngram:
            weight += 2 if tokens[last].isascii() else 1
            last += 1
        if weight >= 2 * ngram:
            found.add(tuple(tokens[first:last]))
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=6), st.lists(WORDS, min_size=1, max_size=4))
def test_shares_are_those_of_plain_sets(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], tests: list[list[str]]
) -> None:
    made = table(tmp_path_factory.mktemp("t"), [[("text", " ".join(tokens))] for tokens in tests], ngram=5)
    own = [naive_grams(tokens, 5) for tokens in tests]
    counts = Counter(gram for number, grams in enumerate(own) for gram in grams if tests.index(tests[number]) == number)
    limit = boilerplate_limit(len(tests))
    expected = {}
    for row, tokens in enumerate(rows):
        have = naive_grams(tokens, 5)
        for number, grams in enumerate(own):
            wanted = {gram for gram in grams if counts[gram] <= limit}
            if tests.index(tests[number]) == number and wanted & have:
                expected[row, number + 1] = round(len(wanted & have) / len(wanted), 4)
    got = shares(made, [[("text", " ".join(tokens))] for tokens in rows])
    assert got == pytest.approx(expected, abs=1e-4)


def test_more_matches_than_there_is_room_for_are_all_given(tmp_path: Path) -> None:
    tests = table(tmp_path, [[("user", ENGLISH), ("assistant", "1")]])
    assert len(match(Parts.of([[("user", ENGLISH), ("assistant", "2")]] * 1000), tests, 0.5).rows) == 1000


def test_the_text_that_both_have_is_shown_as_the_training_row_has_it(tmp_path: Path) -> None:
    tests = table(tmp_path, [[("user", ENGLISH)], [("user", CHINESE)]])
    assert overlap(f"Well — {ENGLISH.upper()} Ok?", tests, 0) == ENGLISH.upper().rstrip("?")
    assert overlap(f"好的：{CHINESE}完", tests, 1) == CHINESE.rstrip("？")
    assert overlap("nothing", tests, 0) == ""


def test_findings_name_the_closest_test_row_and_count_each_set(tmp_path: Path) -> None:
    rows = [TestRows(0, 0, [7], Parts.of([[("user", ENGLISH)]])), TestRows(1, 1, [9], Parts.of([[("user", CHINESE)]]))]
    tests = build(rows, ["one", "two"], ["a.jsonl", "b.jsonl"], 13, tmp_path)
    training: list[Row] = [[("user", ENGLISH), ("assistant", CHINESE[:35])], [("user", CHINESE), ("assistant", "b")]]
    messages: list[list[Message]] = [[{"role": role, "content": text} for role, text in row] for row in training]
    found = findings(match(Parts.of(training), tests, 0.2), tests, messages, [3, 4], "raw.jsonl")
    assert (found.rows, dict(found.by_test)) == (2, {0: 1, 1: 2})
    assert [(one["line"], one["test"], one["test_line"]) for one in found.examples] == [(3, "one", 7), (4, "two", 9)]
    assert found.document(tests)[1] == {
        "name": "two", "rows": 1, "rows_found": 1, "training_rows": 2, "boilerplate_ngrams": 0
    }  # fmt: skip


def test_a_table_sent_to_another_machine_needs_no_file(tmp_path: Path) -> None:
    sent = pickle.dumps(table(tmp_path, [[("user", ENGLISH), ("assistant", "252")]]))
    for path in tmp_path.iterdir():
        path.unlink()
    assert shares(pickle.loads(sent), [[("user", ENGLISH)]]) == {(0, 1): 1.0}  # noqa: S301 - our own bytes


def test_nothing_to_compare_finds_nothing(tmp_path: Path) -> None:
    tests = table(tmp_path, [[("user", "hi")]])
    found: Matches = match(Parts.of([[("user", ENGLISH)]]), tests, 0.5)
    assert np.array_equal(found.rows, [])
    assert not len(match(Parts.of([]), tests, 0.5).rows)
