"""Near-duplicates are found in every script, only verified ones are dropped, and neither order nor blocks matter."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.dataprep.preparation import pair, prepare
from tunewright.dataprep import near_duplicates
from tunewright.dataprep.clusters import Groups, Pairs, group
from tunewright.dataprep.features import features
from tunewright.dataprep.parts import Parts
from tunewright.dataprep.shingling import Sets, sets
from tunewright.dataprep.sketching import banding, sketch
from tunewright.dataprep.spec import Duplicates

Row = list[tuple[str, str]]
SPEC = Duplicates()


def words(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices("etaoinshrdlu", k=rng.randint(3, 8))) for _ in range(count)]


def ideographs(rng: random.Random, count: int) -> list[str]:
    return [chr(rng.randrange(0x4E00, 0x9F00)) for _ in range(count)]


def edited(rng: random.Random, tokens: list[str], edits: int, *, chinese: bool) -> list[str]:
    tokens = tokens.copy()
    for _ in range(edits):
        tokens[rng.randrange(len(tokens))] = (ideographs if chinese else words)(rng, 1)[0]
    return tokens


def as_row(tokens: list[str], *, chinese: bool, cut: int = 40) -> Row:
    glue = "" if chinese else " "
    return [("user", glue.join(tokens[:cut])), ("assistant", glue.join(tokens[cut:]))]


def jaccard(one: Row, other: Row) -> float:
    both = sets(Parts.of([one, other]), SPEC.shingle)
    left, right = (set(piece.tolist()) for piece in np.split(both.whole, both.whole_ends[:1]))
    return len(left & right) / len(left | right)


def find(rows: list[Row], *, block: int = 1000, spec: Duplicates = SPEC, folder: Path = Path("/tmp")) -> Groups:  # noqa: S108 - scratch without a name
    bands, identities = [], []
    for first in range(0, len(rows), block):
        found = features(Parts.of(rows[first : first + block]), spec, seed=0)
        bands.append(found.bands)
        identities.append(found.identity)
    keys = np.concatenate(bands)
    worth = np.ascontiguousarray(np.concatenate(identities)[:, :8]).view(np.uint64)[:, 0]

    def read_sets(numbers: NDArray[np.int64]) -> Iterator[Sets]:
        for first in range(0, len(numbers), block):
            yield sets(Parts.of([rows[number] for number in numbers[first : first + block]]), spec.shingle)

    alive = np.ones(len(rows), np.bool_)
    return near_duplicates.find(lambda band: keys[:, band].copy(), worth, alive, read_sets, spec, folder, lambda: None)


@pytest.mark.parametrize("chinese", [False, True])
def test_pairs_at_the_threshold_are_found_and_pairs_below_are_kept(*, chinese: bool) -> None:
    rng = random.Random(3)  # noqa: S311 - test data
    rows: list[Row] = []
    for number in range(600):
        tokens = (ideographs if chinese else words)(rng, 330 if chinese else 180)
        edits = rng.randint(1, 8 if number % 2 else 40)
        rows += [as_row(tokens, chinese=chinese), as_row(edited(rng, tokens, edits, chinese=chinese), chinese=chinese)]
    kept = find(rows).kept_instead
    found = [kept[at] == at + 1 or kept[at + 1] == at for at in range(0, len(rows), 2)]
    similar = [jaccard(rows[at], rows[at + 1]) for at in range(0, len(rows), 2)]
    close = [hit for hit, likeness in zip(found, similar, strict=True) if likeness >= SPEC.threshold]
    assert len(close) > 100
    assert np.mean(close) >= 0.95
    assert not any(hit for hit, likeness in zip(found, similar, strict=True) if likeness < SPEC.threshold)


def some_rows(rng: random.Random) -> list[Row]:
    rows = []
    for number in range(120):
        chinese = number % 2 == 0
        tokens = (ideographs if chinese else words)(rng, rng.choice([3, 12, 90, 200]))
        rows += [as_row(edited(rng, tokens, rng.randint(0, 4), chinese=chinese), chinese=chinese) for _ in range(4)]
    return rows


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 500))
def test_neither_the_order_of_rows_nor_the_cut_of_blocks_matters(seed: int, block: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - test data
    rows = some_rows(rng)
    whole = find(rows)
    assert np.array_equal(whole.kept_instead, find(rows, block=block).kept_instead)
    order = rng.sample(range(len(rows)), len(rows))
    other = find([rows[at] for at in order], block=block)

    def texts(kept: NDArray[np.int64], of: list[Row]) -> list[Row]:
        return sorted(of[at] for at in range(len(of)) if kept[at] == at)

    assert texts(whole.kept_instead, rows) == texts(other.kept_instead, [rows[at] for at in order])


def test_each_dropped_row_has_a_kept_twin_as_similar_as_is_said() -> None:
    rows = some_rows(random.Random(8))  # noqa: S311 - test data
    found = find(rows)
    dropped = np.flatnonzero(found.kept_instead != np.arange(len(rows)))
    assert len(dropped) > 50
    for row in dropped.tolist():
        twin = int(found.kept_instead[row])
        assert found.kept_instead[twin] == twin
        assert found.cluster[row] == found.cluster[twin]
        assert jaccard(rows[row], rows[twin]) == pytest.approx(found.similarity[row])
        assert found.similarity[row] >= SPEC.threshold


def test_another_short_answer_to_one_long_text_is_no_duplicate_and_neither_is_another_system_message() -> None:
    long = " ".join(words(random.Random(1), 200))  # noqa: S311 - test data
    answers = [[("user", long), ("assistant", answer)] for answer in ("Yes, certainly", "No, never at all")]
    systems = [[("system", name), ("user", long), ("assistant", "Yes")] for name in ("Be brief", "Be kind")]
    assert list(find([*answers, *systems]).kept_instead) == [0, 1, 2, 3]
    assert len(set(find([*systems, [*systems[0][:2], ("assistant", "Yes!")]]).kept_instead.tolist())) == 2


def test_rows_without_any_token_and_an_empty_block_pass() -> None:
    assert list(find([[("user", ""), ("assistant", "")], [("user", ""), ("assistant", "")]]).cluster) in (
        [0, 0],
        [1, 1],
    )
    assert features(Parts.of([]), SPEC, seed=0).bands.shape == (0, 21)


def test_a_search_ends_when_the_check_says_so() -> None:
    def stop() -> None:
        raise InterruptedError

    empty = np.zeros(0, np.uint64)
    with pytest.raises(InterruptedError):
        near_duplicates.find(lambda _: empty, empty, empty.astype(bool), lambda _: [], SPEC, Path(), stop)


def test_a_chain_of_small_differences_does_not_swallow_its_far_end() -> None:
    pairs = Pairs(np.array([1, 2, 3]), np.array([0, 1, 2]), np.full(3, 0.9, np.float32))
    found = group(pairs, np.array([9, 8, 7, 6], np.uint64), {})
    assert list(found.kept_instead) == [0, 0, 2, 2]
    assert list(found.cluster) == [0, 0, 0, 0]


@pytest.mark.parametrize("size", [8, 60, 900])
def test_sketches_agree_in_as_many_places_as_sets_are_similar_and_meet_as_minhash_does(size: int) -> None:
    rng, places, others = np.random.default_rng(0), np.empty(128, np.uint64), np.empty(128, np.uint64)
    shared = round(2 * size * 0.8 / 1.8)
    true = shared / (2 * size - shared)
    cut, agreeing, meetings = banding(128, 0.8), [], []
    for _ in range(400):
        values = rng.integers(0, 2**63, 2 * size, dtype=np.uint64)
        sketch(values, 0, size, places)
        sketch(np.concatenate([values[:shared], values[size : 2 * size - shared]]), 0, size, others)
        same = places == others
        agreeing.append(same.mean())
        meetings.append(same[: cut.bands * cut.rows].reshape(cut).all(axis=1).any())
    assert np.mean(agreeing) == pytest.approx(true, abs=0.01)
    assert np.std(agreeing) < 1.2 * (true * (1 - true) / 128) ** 0.5
    assert np.mean(meetings) >= 1 - (1 - true**cut.rows) ** cut.bands - 0.02


@pytest.mark.parametrize("order", [1, -1])
def test_the_best_of_near_duplicates_is_kept_wherever_it_stands_and_the_report_shows_the_cluster(
    order: int, tmp_path: Path
) -> None:
    rng = random.Random(5)  # noqa: S311 - made rows, not secrets
    text = " ".join(words(rng, 60))
    rows = [
        pair("What is it?", f"{text} one<br>"),
        pair("What is it?", f"{text} two, Two; TWO!"),
        pair("What is it?", f"{text} three"),
    ][::order]
    result = prepare(tmp_path, [*rows, pair("else", "other")])
    assert result.manifest.metrics["dropped"] == {"near_duplicate": 2}
    assert result.answers() == [f"{text} two, Two; TWO!", "other"]
    found = result.document["near_duplicates"]
    assert (found["clusters"], found["dropped"], found["largest"]) == (1, 2, 3)
    (cluster,) = found["examples"]
    assert (cluster["kept"]["file"], cluster["kept"]["line"], cluster["rows"]) == ("raw.jsonl", 2, 3)
    assert sorted(member["line"] for member in cluster["dropped"]) == [1, 3]
    assert all(0.8 <= member["similarity"] < 1 for member in cluster["dropped"])
