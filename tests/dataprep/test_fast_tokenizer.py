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

from tunewright.dataprep import fast_tokenizer
from tunewright.dataprep.masking import BaseTokenizer

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_model"
SAMPLE = ["In 2024, it's 12 345 of  678  words;  we'll see the other one.\n\n  And then 9\t10!"] * 20
TEXT = st.text("ab é你1２½Ⅳ \n\t\r.,'-_!😀\u00a0\u3000")
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
