"""Documents and pairs of answers go the whole way, and come out as the trainer reads them."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.dataprep.preparation import Recorder, pair, prepare, prepare_inputs, to_jsonl
from tunewright.chassis.errors import InvalidData
from tunewright.dataprep import stage
from tunewright.dataprep.kinds import RowKind, body_of, messages_of
from tunewright.dataprep.readers import pieces
from tunewright.dataprep.spec import DataprepSpec

WORDS = "river stone cloud amber lantern copper window garden silver harbour meadow engine winter orchard"
STOPS = (". ", "! ", "? ", ".\n", ".\n\n")


def prose(seed: int, sentences: int = 6) -> str:
    """Text without repeats."""
    chance = random.Random(seed)  # noqa: S311 - text, not secrets
    return "".join(
        " ".join([*chance.choices(WORDS.split(), k=9), str(chance.random())]).capitalize() + chance.choice(STOPS)
        for _ in range(sentences)
    ).strip()


def judged(number: int, **changes: str) -> dict[str, Any]:
    row = {"prompt": f"Question {prose(number, 1)}", "chosen": prose(number + 500), "rejected": prose(number + 900)}
    return row | changes


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def test_documents_are_cleaned_masked_deduplicated_and_written_as_texts(tmp_path: Path) -> None:
    texts = [prose(number) for number in range(20)]
    dirty = "Some &amp; <b>bold</b> words.\u200b Write to jane.doe@acme.org now.   \r\nThe end."
    rows = [{"text": text} for text in [*texts, texts[3].upper(), texts[4] + " And", dirty, "   "]]
    result = prepare(tmp_path, rows)
    assert result.manifest.metrics["row_kind"] == "text"
    assert result.manifest.metrics["dropped"] == {"empty_answer": 1, "duplicate": 1, "near_duplicate": 1}
    assert set(result.rows[0]) == {"id", "text", "source"}
    assert result.rows[0]["text"] == texts[0].strip()
    masked = result.rows[-1]["text"]
    assert masked.startswith("Some & bold words.")
    assert "jane.doe" not in masked
    assert "\r" not in masked
    assert len(result.validation) in range(1, 5)


def test_long_documents_are_cut_at_sentences_and_their_pieces_stay_on_one_side(tmp_path: Path) -> None:
    texts = [prose(number, 60) for number in range(30)]
    result = prepare(tmp_path, [{"text": text} for text in texts], reading={"piece_chars": 600}, seed=5)
    sides: dict[int, set[str]] = {}
    for side, rows in (("train", result.train), ("validation", result.validation)):
        for row in rows:
            assert len(row["text"]) <= 600
            assert row["text"][-1] in ".!?"
            sides.setdefault(row["source"]["line"], set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    assert {side for found in sides.values() for side in found} == {"train", "validation"}
    joined = "".join(row["text"] for row in result.rows if row["source"]["line"] == 7)
    assert "".join(joined.split()) == "".join(texts[6].split())
    count = len(result.rows)
    assert result.manifest.metrics["rows_in"] == count
    assert result.report.messages("documents_cut") == [
        f"30 documents of more than 600 characters became {count} rows (reading.piece_chars)"
    ]


def test_markup_of_a_long_document_is_cleaned_before_it_is_cut(tmp_path: Path) -> None:
    page = "<div>" + "".join(f"<p>{prose(number)}</p>" for number in range(9)) + "</div>"
    result = prepare(tmp_path, [{"text": page}], reading={"piece_chars": 700})
    assert len(result.rows) > 3
    assert not any("<" in row["text"] for row in result.rows)
    assert result.document["changed"]["html"] == 1


def test_text_and_html_files_become_documents_each_on_one_side(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02}.txt").write_text("\n\n".join(prose(number * 50 + n) for n in range(5)))
    page = f"<!doctype html><html><body><nav>Menu</nav><main><p>{prose(1000)}</p></main></body></html>"
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "notes.md").write_text(f"# Notes\n\n{prose(1001)}\n")
    (tmp_path / "output").mkdir()
    folder = tmp_path / "all"
    folder.mkdir()
    for path in [*tmp_path.glob("*.*")]:
        path.rename(folder / path.name)
    result = prepare_inputs(tmp_path, {"upload_000": folder}, reading={"piece_chars": 900})
    by_file = {row["source"]["file"] for row in result.rows}
    assert len(by_file) == 14
    assert not by_file.intersection(row["source"]["file"] for row in result.train) & {
        row["source"]["file"] for row in result.validation
    }
    assert result.validation
    texts = {row["source"]["file"]: row["text"] for row in result.rows}
    assert texts["page.html"] == prose(1000).replace("\n", " ").replace("  ", " ")
    assert texts["notes.md"].startswith("# Notes\n\n")


def test_one_document_alone_is_divided_by_rows_with_a_warning(tmp_path: Path) -> None:
    text = "\n\n".join(prose(number) for number in range(40))
    result = prepare(tmp_path, text.encode(), name="book.txt", reading={"piece_chars": 900})
    assert result.validation
    assert result.report.messages("split_by_row") == [
        "All rows are pieces of one document: rows are divided instead, so the held-out loss says less"
    ]


@pytest.mark.parametrize("sign", ["\n\n", "\n", "。", "！", "? ", " "])
def test_pieces_end_at_the_best_place_and_lose_nothing(sign: str) -> None:
    text = sign.join("x" * 70 for _ in range(50))
    found = list(pieces(text, 400))
    assert "".join(found) == text
    assert all(piece.endswith(sign) and len(piece) <= 400 for piece in found[:-1])


def test_pairs_of_answers_are_written_as_the_trainer_reads_them(tmp_path: Path) -> None:
    result = prepare(tmp_path, [judged(number) for number in range(20)], system_prompt="Be brief.")
    assert result.manifest.metrics["row_kind"] == "preference"
    assert len(result.rows) == 20
    row = judged(0)
    assert {key: result.rows[0][key] for key in ("messages", "chosen", "rejected")} == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["prompt"]}],
        "chosen": row["chosen"].strip(),
        "rejected": row["rejected"].strip(),
    }
    assert result.document["lengths"]["answer"]["min"] > 0


def test_all_three_parts_of_a_pair_are_cleaned_and_masked(tmp_path: Path) -> None:
    dirt = "\u200b Call +1 415 555 2671 now.  \r\nBye"
    rows = [judged(1, prompt=f"a{dirt}", chosen=f"b{dirt}", rejected=f"c{dirt}")]
    result = prepare(tmp_path, rows)
    (row,) = result.rows
    for text in (row["messages"][0]["content"], row["chosen"], row["rejected"]):
        assert "2671" not in text
        assert "\u200b" not in text
        assert text.endswith("now.\nBye")


def test_pairs_without_a_choice_are_dropped_and_equal_pairs_kept_once(tmp_path: Path) -> None:
    same = judged(30, chosen="The same answer.", rejected=" The same answer. ")
    empty = judged(31, rejected=" ")
    loud = judged(2) | {"rejected": judged(2)["rejected"].upper()}
    other = judged(3, rejected=prose(7777))
    result = prepare(tmp_path, [*(judged(number) for number in range(20)), same, empty, loud, other])
    assert result.manifest.metrics["dropped"] == {"empty_answer": 1, "same_answers": 1, "duplicate": 1}


def test_pairs_that_prefer_both_ways_are_no_duplicates_but_contradict_each_other(tmp_path: Path) -> None:
    rows = [judged(number) for number in range(10)]
    swapped = rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    third = rows[1] | {"rejected": prose(4321)}
    result = prepare(tmp_path, [*rows, swapped, third])
    assert len(result.rows) == 12
    assert result.document["conflicts"]["rows"] == 2
    dropped = prepare(tmp_path, [*rows, swapped, third], conflicts={"action": "drop"})
    assert dropped.manifest.metrics["dropped"] == {"conflict": 2}


def test_pairs_of_one_prompt_stay_on_one_side(tmp_path: Path) -> None:
    rows = [judged(number % 15, chosen=prose(2000 + number), rejected=prose(3000 + number)) for number in range(60)]
    result = prepare(tmp_path, rows, split={"validation_fraction": 0.3})
    train, held = ({row["messages"][0]["content"] for row in side} for side in (result.train, result.validation))
    assert held
    assert train
    assert not train & held


ASKED, BETTER, WORSE = "Where is the harbour?", "By the river.", "I do not say."
SHAPES = {
    "messages": {"prompt": turns(ASKED), "chosen": turns("", BETTER)[1:], "rejected": turns("", WORSE)[1:]},
    "conversations": {"chosen": turns(ASKED, BETTER), "rejected": turns(ASKED, WORSE)},
    "both": {"prompt": ASKED, "chosen": turns(ASKED, BETTER), "rejected": turns(ASKED, WORSE)},
    "question": {"question": ASKED, "chosen": BETTER, "rejected": WORSE},
    "openai": {
        "input": {"messages": turns(ASKED)},
        "preferred_output": turns("", BETTER)[1:],
        "non_preferred_output": turns("", WORSE)[1:],
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": ASKED}],
        "chosen": {"from": "gpt", "value": BETTER},
        "rejected": {"from": "gpt", "value": WORSE},
    },
    "spoken": {
        "chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {BETTER}",
        "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {WORSE}",
    },
    "spoken prompt": {"prompt": f"\n\nHuman: {ASKED}\n\nAssistant:", "chosen": f" {BETTER}", "rejected": f" {WORSE}"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_are_read_in_the_shapes_that_they_are_found_in(shape: str, tmp_path: Path) -> None:
    (row,) = prepare(tmp_path, [SHAPES[shape]]).rows
    assert (row["messages"], row["chosen"], row["rejected"]) == (turns(ASKED), BETTER, WORSE)


def test_a_longer_shared_conversation_is_kept_whole(tmp_path: Path) -> None:
    before = turns(ASKED, "Which one?", "The old one.")
    row = {"prompt": ASKED, "chosen": [*before, *turns("", BETTER)[1:]], "rejected": [*before, *turns("", WORSE)[1:]]}
    assert prepare(tmp_path, [row]).rows[0]["messages"] == before


def test_pairs_that_differ_before_the_last_answer_are_named(tmp_path: Path) -> None:
    wrong = {"chosen": turns(ASKED, BETTER), "rejected": turns("Something else?", WORSE)}
    result = prepare(tmp_path, [*(judged(number) for number in range(10)), wrong])
    (example,) = result.document["drop_examples"]["no_shared_prompt"]
    assert (example["line"], example["detail"]) == (
        11,
        "chosen: chosen and rejected may differ in the last answer only",
    )


def test_a_mixture_of_kinds_is_refused_with_the_files_named(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(to_jsonl([pair("a", "b")]))
    (folder / "b.jsonl").write_bytes(to_jsonl([judged(1)]))
    (folder / "c.txt").write_text("A text.")
    with pytest.raises(InvalidData) as refusal:
        prepare_inputs(tmp_path, {"upload_000": folder})
    assert refusal.value.message == (
        "the files hold rows of different kinds: conversations in a.jsonl; pairs of answers in b.jsonl; documents in "
        "c.txt. A dataset is made of one kind"
    )


def test_a_row_read_back_is_the_row_that_was_written() -> None:
    rows = {
        RowKind.TEXT: [{"role": "text", "content": "a"}],
        RowKind.CONVERSATION: turns("a", "b"),
        RowKind.PREFERENCE: [*turns("a"), {"role": "chosen", "content": "b"}, {"role": "rejected", "content": "c"}],
    }
    for kind, messages in rows.items():
        assert messages_of(json.loads(b"{%b}" % body_of(messages, kind))) == messages  # type: ignore[arg-type]  # literals


@pytest.mark.parametrize("kind", ["text", "preference"])
def test_the_same_rows_give_the_same_bytes_however_they_are_cut_and_whoever_works(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [{"text": prose(number, 30)} for number in range(80)]
    rows = texts if kind == "text" else [judged(number) for number in range(80)]
    (tmp_path / "raw.jsonl").write_bytes(to_jsonl(rows))
    spec = DataprepSpec.from_mapping({"reading": {"piece_chars": 700}})
    found = []
    for name, workers, block_bytes in (("one", 1, 4 << 20), ("three", 3, 20_000)):
        monkeypatch.setattr(stage, "SMALL_BYTES", 0)
        monkeypatch.setattr(stage, "BLOCK_BYTES", block_bytes)
        output = tmp_path / name
        output.mkdir()
        stage.run(spec, {"upload_000": tmp_path / "raw.jsonl"}, output, Recorder(runtime={"workers": workers}))
        found.append([(output / file).read_bytes() for file in ("train.jsonl", "validation.jsonl", "report.json")])
    assert found[0] == found[1]
    assert found[0][1]
