"""Only answers count, the end of a turn is learned, and nothing is left out silently."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import TINY_MODEL, Conversation, exchange
from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import InvalidData, Refused
from tunewright.trainer.base import end_token_ids, load_tokenizer
from tunewright.trainer.data import Row
from tunewright.trainer.encoding import IGNORED, Encoded, Encoder

MARKED = (TINY_MODEL / "chat_template.jinja").read_text(encoding="utf-8")
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
TURNS = [*exchange("one?", "uno"), *exchange("two?", "dos")]


def tokenizer_with(template: str, folder: Path) -> Any:  # noqa: ANN401 - transformers' tokenizer
    shutil.copytree(TINY_MODEL, folder / "base")
    (folder / "base" / "chat_template.jinja").write_text(template, encoding="utf-8")
    return load_tokenizer(folder / "base", Recorder(folder / "checkpoints"))


def encode(template: str, folder: Path, *conversations: Conversation, max_length: int = 1024) -> tuple[Encoded, Any]:
    tokenizer = tokenizer_with(template, folder)
    encoder = Encoder(tokenizer, end_token_ids(tokenizer, folder / "base"), max_length)
    rows = [Row(f"id{n}", messages, f"train.jsonl:{n + 1}") for n, messages in enumerate(conversations)]
    return encoder.encode(rows, "train", Recorder(folder / "checkpoints")), tokenizer


@pytest.mark.parametrize("template", [MARKED, UNMARKED], ids=["marked", "unmarked"])
def test_exactly_the_answers_and_their_ends_count(template: str, tmp_path: Path) -> None:
    encoded, tokenizer = encode(template, tmp_path, TURNS)
    labels = [label for label in encoded.examples[0].labels if label != IGNORED]
    assert tokenizer.decode(labels) == "uno<|im_end|>dos<|im_end|>"


def test_marked_and_unmarked_templates_give_the_same_labels(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "Be\n\nbrief, 请。"}, *TURNS]
    marked, _ = encode(MARKED, tmp_path / "a", TURNS, system)
    unmarked, _ = encode(UNMARKED, tmp_path / "b", TURNS, system)
    assert [e.labels for e in marked.examples] == [e.labels for e in unmarked.examples]
    assert [e.input_ids for e in marked.examples] == [e.input_ids for e in unmarked.examples]


def test_a_template_that_leaves_the_end_out_is_refused_with_the_row(tmp_path: Path) -> None:
    unended = MARKED.replace("message['content'] + '<|im_end|>' }}{% endgen", "message['content'] }}{% endgen")
    with pytest.raises(Refused, match=r"train\.jsonl:1: the answer ends in 'o'.*never learn to stop"):
        encode(unended, tmp_path, TURNS)


def test_a_template_without_any_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="never learn to stop"):
        encode(UNMARKED.replace("<|im_end|>", "END"), tmp_path, TURNS)


def test_a_template_that_marks_nothing_is_an_error_naming_the_row(tmp_path: Path) -> None:
    marks_system = MARKED.replace("message['role'] == 'assistant'", "message['role'] == 'tool'")
    with pytest.raises(InvalidData, match=r"train\.jsonl:1: the chat template marks no token"):
        encode(marks_system, tmp_path, TURNS)


def test_a_template_that_marks_the_question_is_an_error(tmp_path: Path) -> None:
    marks_user = MARKED.replace("message['role'] == 'assistant'", "message['role'] == 'user'")
    with pytest.raises(InvalidData, match="the tokens that count spell"):
        encode(marks_user, tmp_path, TURNS)


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    rewriting = UNMARKED.replace("message['content'] +", "(message['content'] if loop.last else '…') +")
    with pytest.raises(Refused, match="renders message 1 differently once more follow"):
        encode(rewriting, tmp_path, TURNS)


def test_a_conversation_that_the_template_refuses_is_named(tmp_path: Path) -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + MARKED
    with pytest.raises(InvalidData, match=r"train\.jsonl:2: .*no system"):
        encode(strict, tmp_path, TURNS, [{"role": "system", "content": "x"}, *TURNS])


def test_rows_whose_prompt_fills_max_length_are_counted_and_named(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(MARKED, tmp_path)
    report = Recorder(tmp_path / "checkpoints")
    rows = [
        Row("a", exchange("short", "fits"), "train.jsonl:1"),
        Row("b", exchange("long " * 40, "lost"), "train.jsonl:2"),
        Row("c", exchange("short", "cut " * 40), "train.jsonl:3"),
    ]
    encoded = Encoder(tokenizer, {tokenizer.eos_token_id}, 64).encode(rows, "train", report)
    assert [example.row.id for example in encoded.examples] == ["a", "c"]
    assert len(encoded.examples[1].input_ids) == 64
    assert report.of_type("prompt_too_long")[0]["places"] == ["train.jsonl:2"]
    assert report.of_type("answer_cut")[0]["places"] == ["train.jsonl:3"]


def test_an_answer_in_two_scripts_and_with_code_survives_the_comparison(tmp_path: Path) -> None:
    answer = "def f(x):\n\treturn {'键': x}  # ok\n"
    encoded, tokenizer = encode(MARKED, tmp_path, exchange("写代码", answer))
    labels = [label for label in encoded.examples[0].labels if label != IGNORED]
    assert tokenizer.decode(labels) == answer + "<|im_end|>"


def test_the_prompt_is_what_serving_renders(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(MARKED, tmp_path)
    ids = Encoder(tokenizer, {tokenizer.eos_token_id}, 64).prompt_ids(Row("a", TURNS[:2], "train.jsonl:1"))
    assert tokenizer.decode(ids) == "<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n"
