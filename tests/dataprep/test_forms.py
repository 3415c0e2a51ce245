"""The compiled normal form is Python's, text by text, and a row's identity is what it always was."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataprep.characters import ALONE, LIMIT, SPACE, WORD, tables
from tunewright.dataprep.features import features
from tunewright.dataprep.forms import normal_forms
from tunewright.dataprep.hashing import mix
from tunewright.dataprep.normalising import identity, normalise, question_form
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.spec import Duplicates
from tunewright.dataprep.splitting import place

TRICKY = st.text(
    "aAbB.,:;?!…)\"'_ \n\t\r09{};`~<你好，。！、ｱＡ（“’—é½ßİ™\u00a0\u3000\u2028\x85\x1c\x0bヿㄱ"
    "가\u0301क़🙂\u200d𠀀ﬁ١\x00"
)
ANY = st.one_of(TRICKY, st.text(), st.from_regex(r"([ \t]{0,3}[a;{}`~]{0,4}\n){0,4}", fullmatch=True))
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), ANY), min_size=1, max_size=4)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(ANY, max_size=3), max_size=4))
def test_the_compiled_form_is_pythons_whatever_stands_beside_it(rows: list[list[str]]) -> None:
    forms = normal_forms(Parts.of([[("user", text) for text in row] for row in rows]))
    texts = [text for row in rows for text in row]
    assert [bytes(forms.part(number)).decode() for number in range(len(texts))] == list(map(normalise, texts))


def test_each_character_alone_and_beside_a_letter_has_pythons_form() -> None:
    points = [point for point in range(0x30000) if not 0xD800 <= point < 0xE000]
    texts = [f"{chr(point)}a{chr(point)} {chr(point)}" for point in points]
    forms = normal_forms(Parts.of([[("user", text)] for text in texts]))
    assert [bytes(forms.part(number)).decode() for number in range(len(texts))] == list(map(normalise, texts))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(ANY, max_size=3), max_size=4))
def test_tokens_found_while_folding_are_those_of_the_finished_form(rows: list[list[str]]) -> None:
    forms = normal_forms(Parts.of([[("assistant", text) for text in row] for row in rows]))
    parts = iter(range(sum(map(len, rows))))
    for number, (row, end) in enumerate(zip(rows, forms.tokens.ends.tolist(), strict=True)):
        wanted = [token for _ in row for token in tokens_of(bytes(forms.part(next(parts))).decode())]
        start = forms.tokens.ends[number - 1] if number else 0
        own = [mix(np.uint64(_joined(token))) for token in wanted]
        assert forms.tokens.hashes[start:end].tolist() == own
        assert forms.tokens.answers[start:end].all()


def tokens_of(form: str) -> list[str]:
    """Return words, single characters of scripts without spaces, and runs of one symbol as one symbol."""
    found: list[str] = []
    in_word, last = False, "\0"
    for sign in form:
        point = ord(sign)
        kind = tables().kinds[point] if point < LIMIT else WORD | ALONE
        if kind & WORD and not kind & ALONE:
            found += [sign] if not in_word else [found.pop() + sign]
            in_word, last = True, "\0"
            continue
        in_word = False
        if not kind & SPACE and (kind & ALONE or sign != last):
            found.append(sign)
        last = sign
    return found


def _joined(token: str) -> int:
    """Return what stands for a token before its bits are mixed: a symbol itself, a word's characters multiplied in."""
    kind = tables().kinds[ord(token[0])] if ord(token[0]) < LIMIT else ALONE
    if not kind & WORD or kind & ALONE:
        return ord(token)
    value = 0
    for sign in token:
        value = (value ^ ord(sign)) * 0x9E3779B97F4A7C15 % 2**64
    return value


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(ANY, max_size=3), max_size=4))
def test_characters_are_counted_text_by_text(rows: list[list[str]]) -> None:
    forms = normal_forms(Parts.of([[("user", text) for text in row] for row in rows]))
    assert forms.sizes.tolist() == [len(text) for row in rows for text in row]


@settings(max_examples=200, deadline=None)
@given(st.lists(TURNS, min_size=1, max_size=4))
def test_identity_question_and_distinct_characters_are_those_of_single_rows(rows: list[list[tuple[str, str]]]) -> None:
    rows = [[("user", "q"), *row] for row in rows]
    found = features(Parts.of(rows), Duplicates(near=False), seed=7)
    for number, row in enumerate(rows):
        messages: list[Message] = [{"role": role, "content": text} for role, text in row]
        forms = [normalise(text) for _, text in row]
        assert found.identity[number].tobytes() == identity(forms, messages)
        assert found.question[number] == place(question_form(forms, messages).encode(), 7)
        assert found.distinct[number] == len(set().union(*(text for _, text in row)))


def test_a_message_with_tool_calls_is_another_row_than_one_without() -> None:
    plain: Message = {"role": "assistant", "content": "a"}
    calling: Message = {**plain, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    found = features(Parts.of_messages([[plain], [calling]]), Duplicates(near=False), seed=0)
    assert found.identity[0].tobytes() != found.identity[1].tobytes()
