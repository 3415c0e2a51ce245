"""Rows that say the same in other words are found by a model on disk, exactly, and the best of them is kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.dataprep.preparation import Prepared, pair, prepare
from tunewright.chassis.errors import InvalidData, InvalidSpec
from tunewright.dataprep.clusters import joined
from tunewright.dataprep.semantic import neighbours
from tunewright.dataprep.semantic.folder import digest_of, find_model
from tunewright.dataprep.semantic.model import EmbeddingModel
from tunewright.dataprep.semantic.neighbours import find_pairs

MEANINGS = (
    ("restart", "reboot"), ("router", "modem"), ("please", "kindly"), ("unplug", "disconnect"), ("it", "that"),
    ("wait", "pause"), ("invoice", "bill"), ("download", "fetch"), ("page", "screen"),
)  # fmt: skip
QUESTION, OTHER_QUESTION = "please restart router", "kindly reboot modem"
ANSWER, OTHER_ANSWER = "Unplug it wait", "disconnect that pause"


def make_model(root: Path, name: str = "words", **tensors: NDArray[np.float32]) -> Path:
    """A model whose words of one meaning have one vector, and those of different meanings nothing in common."""
    folder = root / name
    folder.mkdir(parents=True)
    words = {word: number for number, word in enumerate(word for pair in MEANINGS for word in pair)}
    tokenizer = Tokenizer(models.WordLevel({**words, "?": len(words)}, unk_token="?"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.repeat(np.eye(len(MEANINGS) + 1, dtype=np.float32), 2, axis=0)[: len(words) + 1]
    save_file(tensors or {"embeddings": vectors}, folder / "model.safetensors")
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_model(tmp_path / "models")
    monkeypatch.setenv("TUNEWRIGHT_EMBEDDING_ROOT", str(tmp_path / "models"))
    return tmp_path / "models"


def run(folder: Path, rows: list[Any], **semantic: object) -> Prepared:
    return prepare(folder, rows, semantic={"model": "words", **semantic})


@pytest.mark.parametrize("order", [1, -1])
def test_of_rows_that_say_the_same_in_other_words_the_best_is_kept_wherever_it_stands(
    order: int, root: Path, tmp_path: Path
) -> None:
    rows = [pair(OTHER_QUESTION, OTHER_ANSWER), pair(QUESTION, ANSWER), pair("download invoice", "page")][::order]
    result = run(tmp_path, rows)
    assert result.manifest.metrics["dropped"] == {"semantic_duplicate": 1}
    assert sorted(result.answers()) == [OTHER_ANSWER, "page"]
    (example,) = result.document["drop_examples"]["semantic_duplicate"]
    assert ANSWER in example["text"]
    assert OTHER_ANSWER in example["kept"]
    assert example["detail"].endswith(f"raw.jsonl:{1 if order == 1 else 3}, which is kept")
    assert result.document["settings"]["semantic_duplicate"] == "semantic.threshold: 0.95"
    assert result.manifest.spec["semantic"]["model"] == "words"
    assert root.is_dir()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    "other",
    [
        pair(OTHER_QUESTION, "download invoice page"),
        pair("fetch bill screen", OTHER_ANSWER),
        {"messages": [{"role": "system", "content": "wait"}, *(
            {"role": role, "content": text} for role, text in (("user", OTHER_QUESTION), ("assistant", OTHER_ANSWER))
        )]},
    ],
)  # fmt: skip
def test_rows_that_only_ask_alike_or_answer_alike_or_have_another_system_message_stay(
    other: dict[str, Any], tmp_path: Path
) -> None:
    first = other if "messages" not in other else {"messages": other["messages"][1:]}
    rows = [pair(QUESTION, ANSWER), other] if first is other else [
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]}, other
    ]  # fmt: skip
    assert run(tmp_path, rows).manifest.metrics["dropped"] == {}


def test_nothing_is_looked_for_unless_a_model_is_named(tmp_path: Path) -> None:
    result = prepare(tmp_path, [pair(QUESTION, ANSWER), pair(OTHER_QUESTION, OTHER_ANSWER)])
    assert len(result.rows) == 2


def test_a_model_that_is_not_there_or_not_the_one_meant_is_refused(root: Path, tmp_path: Path) -> None:
    rows = [pair(QUESTION, ANSWER), pair("wait", "page")]
    assert len(run(tmp_path, rows, digest=digest_of(root / "words")).rows) == 2
    for settings_, message in (
        ({"model": "other"}, "there is no such folder"),
        ({"model": "../.."}, "there is no such folder"),
        ({"digest": "0" * 64}, "asked for was 0000"),
    ):
        with pytest.raises(InvalidSpec, match=message):
            run(tmp_path, rows, **settings_)
    with pytest.raises(InvalidSpec, match="set TUNEWRIGHT_EMBEDDING_ROOT"):
        find_model("", "words", "")


def test_what_is_no_model_of_static_embeddings_is_refused_by_what_is_wrong(tmp_path: Path) -> None:
    two = {"a": np.ones((30, 2), np.float32), "b": np.ones((30, 2), np.float32)}
    with pytest.raises(InvalidSpec, match="one matrix of vectors is expected, it has a, b"):
        EmbeddingModel.load(make_model(tmp_path, "two", **two))
    with pytest.raises(InvalidSpec, match="19 tokens, but 3 vectors"):
        EmbeddingModel.load(make_model(tmp_path, "few", embeddings=np.ones((3, 2), np.float32)))
    broken = make_model(tmp_path, "broken")
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidSpec, match=r"tokenizer\.json cannot be loaded"):
        EmbeddingModel.load(broken)
    (broken / "model.safetensors").write_bytes(b"pickle")
    with pytest.raises(InvalidSpec, match="cannot be loaded"):
        EmbeddingModel.load(broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(InvalidSpec, match=r"one \*\.safetensors are expected"):
        EmbeddingModel.load(broken)


def test_a_texts_vector_is_the_mean_of_its_tokens_and_of_length_one(tmp_path: Path) -> None:
    model = EmbeddingModel.load(make_model(tmp_path))
    found = model.encode(["restart reboot router", "", "reboot"])
    assert found[0][:2] == pytest.approx(np.array([2, 1]) / 5**0.5)
    assert not found[1].any()
    assert found[2][0] == 1


VECTORS: st.SearchStrategy[list[list[int]]] = st.lists(
    st.lists(st.integers(-1, 1), min_size=3, max_size=3), min_size=1, max_size=12
)


@settings(max_examples=200, deadline=None)
@given(VECTORS, VECTORS, st.integers(1, 5))
def test_all_pairs_are_found_whatever_the_blocks(asked: list[list[int]], answered: list[list[int]], block: int) -> None:
    count = min(len(asked), len(answered))
    sides = [np.array(side[:count], np.float32) for side in (asked, answered)]
    questions, answers = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9) for side in sides)
    systems, worth = np.arange(count, dtype=np.uint64) % 2, np.arange(count, dtype=np.uint64) % 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_BLOCK", block)
        found = find_pairs(questions, answers, systems, worth, 0.7, lambda: None)
    expected = {
        (one, other)
        for one in range(count)
        for other in range(one + 1, count)
        if systems[one] == systems[other]
        and answers[one] @ answers[other] >= 0.7
        and (questions[one] @ questions[other] >= 0.7 or not (questions[one].any() or questions[other].any()))
    }
    pairs = list(zip(found.worse.tolist(), found.better.tolist(), strict=True))
    assert {(min(one), max(one)) for one in pairs} == expected
    assert len(pairs) == len(expected)
    assert all((worth[better], -better) >= (worth[worse], -worse) for worse, better in pairs)


def test_too_many_rows_and_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, zeros = np.ones((50, 1), np.float32), np.zeros(50, np.uint64)
    monkeypatch.setattr(neighbours, "MOST_PAIRS", 100)
    with pytest.raises(InvalidData, match=r"more than 100 pairs of rows are alike at a cosine of 0\.9"):
        find_pairs(vectors, vectors, zeros, zeros, 0.9, lambda: None)
    monkeypatch.setattr(neighbours, "MOST_ROWS", 10)
    with pytest.raises(InvalidSpec, match="50 rows; semantic duplicates are looked for among 10 at most"):
        find_pairs(vectors, vectors, zeros, zeros, 0.9, lambda: None)


def test_what_is_linked_by_words_or_by_meaning_lies_in_one_cluster() -> None:
    by_words, by_meaning = np.array([0, 0, 2, 3, 4]), np.array([0, 1, 1, 3, 4])
    assert joined(by_words, by_meaning, np.zeros(5, np.uint64)).tolist() == [0, 0, 0, 3, 4]


def test_all_of_a_split_that_means_the_same_lies_on_one_side(root: Path, tmp_path: Path) -> None:
    chain = [pair(f"{' '.join(['restart'] * n + ['router'] * (12 - n))} n{n}", "page wait") for n in range(13)]
    result = run(tmp_path, [*chain, *(pair(f"download {n}x", f"invoice {n}y") for n in range(3))], threshold=0.97)
    kept = [row for row in result.rows if "page" in json.dumps(row)]
    assert 1 < len(kept) < 13
    sides = {any(row == other for other in result.train) for row in kept}
    assert len(sides) == 1
    assert root.is_dir()
