"""The fast form of a tokenizer that parts digits first gives the ids that the library gives, whatever the text."""

import json
import shutil
from pathlib import Path

import fastokens
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from tunewright.dataprep import fast_tokenizer, parted_digits
from tunewright.dataprep.masking import BaseTokenizer
from tunewright.dataprep.tokens import TokenCounter

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_model"
SAMPLE = [
    "In 2024, it's 12 345 of  678  words;  we'll see the other one.\n\n  And then 9\t10!",
    "一个数据，一个文件。",
] * 20
TEXT = st.text("ab é你1２½Ⅳ \n\t\r.,'-_!😀\u00a0\u3000")
CHINESE = st.text("一个数据文件你好的，。a '\n1〇か", max_size=12)
PIECES = st.lists(st.one_of(TEXT, st.sampled_from(["'s", "we'll", " the", " 12", "  3", "\n\n9"])), max_size=8)


def base_with(folder: Path, splitters: pre_tokenizers.PreTokenizer) -> BaseTokenizer:
    """Return a base whose tokenizer was trained on the sample, split so."""
    shutil.copytree(TINY, folder)
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = splitters
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(SAMPLE, trainers.BpeTrainer(vocab_size=400, min_frequency=2, initial_alphabet=alphabet))
    tiny = json.loads((TINY / "tokenizer.json").read_text())
    own = json.loads(trained.to_str())
    tiny |= {"model": own["model"], "pre_tokenizer": own["pre_tokenizer"]}
    size = len(own["model"]["vocab"])
    for number, token in enumerate(tiny["added_tokens"]):
        token["id"] = size + number
    (folder / "tokenizer.json").write_text(json.dumps(tiny))
    return BaseTokenizer(folder)


@pytest.fixture(scope="module")
def digits_first(tmp_path_factory: pytest.TempPathFactory) -> BaseTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splitters = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return base_with(tmp_path_factory.mktemp("bases") / "base", splitters)


def test_a_tokenizer_that_parts_digits_first_is_given_as_one_pattern(digits_first: BaseTokenizer) -> None:
    source = fast_tokenizer._by_one_pattern(digits_first.source)
    assert source is not None
    assert [one["type"] for one in json.loads(source)["pre_tokenizer"]["pretokenizers"]] == ["Split", "ByteLevel"]
    assert fast_tokenizer._by_one_pattern((TINY / "tokenizer.json").read_text()) is None


@pytest.fixture(scope="module")
def fast(digits_first: BaseTokenizer) -> fastokens.Tokenizer:
    source = fast_tokenizer._by_one_pattern(digits_first.source)
    assert source is not None
    return fastokens.Tokenizer.from_json_str(source)


@settings(max_examples=300, deadline=None)
@given(pieces=PIECES)
def test_its_ids_are_those_of_the_library(
    digits_first: BaseTokenizer, fast: fastokens.Tokenizer, pieces: list[str]
) -> None:
    text = "".join(pieces)
    ids, _ = fast.encode_batch_flat([text], False)
    assert np.frombuffer(ids, np.uint32).tolist() == digits_first.tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def whole(digits_first: BaseTokenizer) -> fast_tokenizer.FastTokenizer:
    found = fast_tokenizer.fast_tokenizer(digits_first)
    assert found is not None
    assert found.has_two_forms
    assert found.counts_by_table
    return found


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(PIECES.map("".join) | CHINESE, min_size=1, max_size=4))
def test_whichever_form_takes_a_text_its_tokens_are_those_of_the_library(
    digits_first: BaseTokenizer, whole: fast_tokenizer.FastTokenizer, texts: list[str]
) -> None:
    counts, last = whole.encode(texts, whole=False)
    ids = [digits_first.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert counts.tolist() == [len(one) for one in ids]
    for text, own, found in zip(texts, ids, last.tolist(), strict=True):
        assert found == (own[-1] if own else -1) or "一" <= text[-1] <= "龥"


@pytest.mark.parametrize(
    ("text", "differs"),
    [("a 1", False), ("\n1", False), ("12 34, x9", False), ("你好 5", False), ("a  1", True), ("\n\n1", True),
     ("\u3000 1", True), (" \u00a01", True), ("½", True), ("Ⅳ", True), ("１", True), ("𝟘", True), ("\u0378", True)],
)  # fmt: skip
def test_texts_are_told_of_which_digits_first_may_make_a_difference(text: str, differs: bool) -> None:  # noqa: FBT001
    data = np.frombuffer(text.encode(), np.uint8)
    assert parted_digits.differ(data, np.array([len(data)])).tolist() == [differs]


def test_characters_that_no_token_joins_to_others_go_and_are_counted(whole: fast_tokenizer.FastTokenizer) -> None:
    assert whole._lone is not None
    texts = ["你好的你好", "a你好b", "一个数据", "你 好", "é"]
    left, counts = whole._lone.take_out([text.encode() for text in texts])
    assert [piece.decode() for piece in left] == ["你", "a你b", "一个数据", "你 好", "é"]
    assert counts.tolist() == [12, 3, 0, 0, 0]


def test_a_vocabulary_with_tokens_of_a_digit_and_more_has_one_form_only(tmp_path: Path) -> None:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base = base_with(tmp_path / "base", byte_level)
    tokenizer = json.loads(base.source)
    assert any(len(word) > 1 and "1" in word for word in tokenizer["model"]["vocab"])
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": fast_tokenizer._DIGITS_FIRST}
    assert fast_tokenizer._by_gpt2(json.dumps(tokenizer)) is None


@settings(max_examples=200, deadline=None)
@given(contents=st.lists(PIECES.map("".join), min_size=2, max_size=4))
def test_contents_counted_by_themselves_are_counted_as_in_the_rendered_row(
    digits_first: BaseTokenizer, counter: TokenCounter, contents: list[str]
) -> None:
    roles = ["system", "user", "assistant"] if len(contents) % 2 else ["user", "assistant"] * (len(contents) // 2)
    row = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    assert digits_first.template is not None
    rendered = digits_first.template.render(row)
    ids = digits_first.tokenizer.encode(rendered, add_special_tokens=False).ids
    assert counter.count([row]).tolist() == [len(ids)]
    assert counter.count([row], [content.encode() for content in contents]).tolist() == [len(ids)]


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> TokenCounter:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splitters = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    folder = tmp_path_factory.mktemp("counted") / "base"
    base_with(folder, splitters)
    found = TokenCounter(folder)
    assert found._around(("user", "assistant")) is not None, "the template's joints are not known"
    return found
