"""Tokens are counted as the base counts them; rows are judged by them; without a base nothing of tokens is said."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from tests.dataprep.preparation import Prepared, Recorder, digests, pair, prepare, prepare_inputs, to_jsonl
from tunewright.chassis.errors import InvalidData, InvalidSpec
from tunewright.chassis.stage import Severity
from tunewright.dataprep.masking import BaseTokenizer
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.stage import run
from tunewright.dataprep.tokens import TokenCounter

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_model"
WORDS = "Whole rows in the model&#39;s tokens"
ROWS = [pair(f"What is number {n}?", f"It is {n}. " + "Indeed so. " * n) for n in range(40)]


def with_base(
    folder: Path,
    rows: list[dict[str, str]],
    base: Path = TINY,
    filters: dict[str, int] | None = None,
    **settings: object,
) -> Prepared:
    """Run the stage on rows, with a base beside them; nothing but tokens decides what is dropped."""
    upload = folder / "upload"
    upload.mkdir(parents=True)
    (upload / "raw.jsonl").write_bytes(to_jsonl(rows))
    settings |= {"duplicates": {"near": False}, "filters": {"repetition": False, **(filters or {})}}
    return prepare_inputs(folder, {"upload_000": upload, "base": base}, **settings)


def lengths(result: Prepared) -> list[int]:
    """Tokens of each row that was kept, by the library itself."""
    tokenizer = BaseTokenizer(TINY)
    return [len(tokenizer.label(row["messages"]).ids) for row in result.rows]


def test_rows_with_too_few_or_too_many_tokens_are_dropped_and_shown(tmp_path: Path) -> None:
    everything = lengths(with_base(tmp_path / "all", ROWS))
    least, most = sorted(everything)[5], sorted(everything)[-6]
    result = with_base(tmp_path / "some", ROWS, filters={"min_tokens": least, "max_tokens": most})
    assert sorted(lengths(result)) == [size for size in sorted(everything) if least <= size <= most]
    dropped = result.manifest.metrics["dropped"]
    assert dropped == {
        "too_few_tokens": sum(size < least for size in everything),
        "too_many_tokens": sum(size > most for size in everything),
    }
    example = result.document["drop_examples"]["too_many_tokens"][0]
    assert example["detail"].endswith(f"tokens; max_tokens is {most:,}")


def test_the_report_counts_every_token_of_the_kept_rows(tmp_path: Path) -> None:
    result = with_base(tmp_path, ROWS, split={"validation_fraction": 0.0})
    tokens = result.document["lengths"]["tokens"]
    sizes = sorted(lengths(result))
    assert (tokens["min"], tokens["max"]) == (sizes[0], sizes[-1])
    assert sum(tokens["counts"]) == len(ROWS)
    assert WORDS in result.page


def test_without_a_base_nothing_is_said_of_tokens(tmp_path: Path) -> None:
    result = prepare(tmp_path, ROWS)
    assert "tokens" not in result.document["lengths"]
    assert WORDS not in result.page


def test_a_token_filter_without_a_base_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"filters\.max_tokens: .* no base is given") as caught:
        prepare(tmp_path, ROWS, filters={"max_tokens": 100})
    assert "--input base=FOLDER" in caught.value.remedy
    with pytest.raises(InvalidSpec, match="at least 9 tokens and at most 3"):
        DataprepSpec.from_mapping({"filters": {"min_tokens": 9, "max_tokens": 3}})


def test_a_base_without_a_tokenizer_is_told_and_refused_where_rows_are_judged_by_it(tmp_path: Path) -> None:
    empty = tmp_path / "base"
    empty.mkdir()
    result = with_base(tmp_path / "told", ROWS, empty)
    assert "tokens" not in result.document["lengths"]
    (event,) = [event for event in result.report.events if event[0] == "not_audited"]
    assert "no tokenizer.json" in event[1]
    assert event[2] is Severity.WARNING
    with pytest.raises(InvalidData, match=r"no tokenizer\.json"):
        with_base(tmp_path / "refused", ROWS, empty, filters={"min_tokens": 3})


def test_rows_that_the_template_refuses_are_counted_apart(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    template = (base / "chat_template.jinja").read_text(encoding="utf-8")
    refuse = "{% if 'number 7?' in messages[0]['content'] %}{{ raise_exception('no') }}{% endif %}"
    (base / "chat_template.jinja").write_text(refuse + template, encoding="utf-8")
    told = with_base(tmp_path / "told", ROWS, base)
    assert told.manifest.metrics["rows_out"] == 40
    assert sum(told.document["lengths"]["tokens"]["counts"]) == 39
    dropped = with_base(tmp_path / "dropped", ROWS, base, filters={"min_tokens": 1})
    assert dropped.manifest.metrics["dropped"] == {"not_rendered": 1}


def test_a_machine_without_the_bases_folder_counts_the_same(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    rows = [[{"role": "user", "content": "One?"}, {"role": "assistant", "content": "其一。"}]]
    sent = pickle.dumps(TokenCounter(base))
    shutil.rmtree(base)
    assert pickle.loads(sent).count(rows).tolist() == TokenCounter(TINY).count(rows).tolist()  # noqa: S301 - our own


def test_counts_are_the_same_in_one_process_and_in_several(tmp_path: Path) -> None:
    rows = [pair(f"What is number {n}?", f"It is {n}. " + "Indeed, 真的。" * (n % 80)) for n in range(40_000)]
    upload = tmp_path / "upload"
    upload.mkdir()
    (upload / "raw.jsonl").write_bytes(to_jsonl(rows))
    found = []
    for workers in (1, 2):
        output = tmp_path / f"output{workers}"
        output.mkdir()
        spec = DataprepSpec.from_mapping(
            {"filters": {"max_tokens": 300, "repetition": False}, "duplicates": {"near": False}}
        )
        recorder = Recorder(runtime={"workers": workers})
        run(spec, {"upload_000": upload, "base": TINY}, output, recorder)
        found.append(digests(output))
    assert found[0] == found[1]
    assert json.loads((tmp_path / "output2" / "report.json").read_bytes())["dropped"]["too_many_tokens"] > 0


def test_the_audit_shows_the_learned_tokens_and_every_length(tmp_path: Path) -> None:
    result = with_base(tmp_path, ROWS, audit={"max_length": 4096})
    audit = json.loads((result.output / "audit.json").read_bytes())
    sizes = [size for side in audit["lengths"].values() for size, rows in side for _ in range(rows)]
    assert sorted(sizes) == sorted(lengths(result))
    assert audit["refusal"] is None
    assert audit["checked"]["rows"] == audit["checked"]["rows_that_learn_to_end"] == 40
    sample = audit["samples"][0]
    learned = "".join(token["text"] for token in sample["tokens"] if token["learned"])
    assert learned == result.train[0]["messages"][-1]["content"] + "<|im_end|>"
    assert "As the model will see the rows" in result.page
    assert [kind for kind, _, severity in result.report.events if severity is Severity.WARNING] == []


def test_rows_cut_and_an_end_that_is_never_learned_are_warnings(tmp_path: Path) -> None:
    result = with_base(tmp_path / "cut", ROWS, audit={"max_length": 60})
    (text,) = result.report.messages("rows_truncated")
    over = sum(size > 60 for size in lengths(result))
    audit = json.loads((result.output / "audit.json").read_bytes())
    assert sum(audit["truncated"][side]["rows"] for side in ("train", "validation")) == over > 2
    assert "filters.max_tokens" in text
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    path = base / "chat_template.jinja"
    template = path.read_text(encoding="utf-8")
    endless = template.replace("message['content'] + '<|im_end|>' }}{% endgen", "message['content'] }}{% endgen")
    assert endless != template
    path.write_text(endless, encoding="utf-8")
    told = with_base(tmp_path / "endless", ROWS, base)
    assert "the model would never learn to stop" in told.report.messages("no_end_token")[0]
    assert "Training would refuse this" in told.page


@pytest.mark.parametrize(("start", "date"), [("{{ strftime_now('%Y') }}", "2024-07-26"), ("", None)])
def test_the_audit_and_the_report_say_which_date_stands_in_every_row(
    start: str, date: str | None, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    template = (TINY / "chat_template.jinja").read_text(encoding="utf-8")
    (base / "chat_template.jinja").write_text(start + template, encoding="utf-8")
    result = with_base(tmp_path, ROWS, base=base)
    assert json.loads((result.output / "audit.json").read_bytes())["template_date"] == date
    assert result.document["audit"]["template_date"] == date
    assert ("that is always 2024-07-26" in result.page) == bool(date)


def test_without_the_audit_nothing_of_the_base_is_left_in_the_dataset(tmp_path: Path) -> None:
    result = with_base(tmp_path, ROWS, audit={"template": False})
    assert not (result.output / "audit.json").exists()
    assert result.document["audit"] is None
    assert "tokens" not in result.document["lengths"]


def test_personal_data_that_is_kept_is_not_shown_by_the_audit(tmp_path: Path) -> None:
    rows = [pair("Who?", "Write to mary.whitfield@northwind-mail.com, please.")]
    result = with_base(tmp_path, rows, pii={"emails": "keep"})
    assert "whitfield" in result.rows[0]["messages"][-1]["content"]
    shown = "".join(t["text"] for t in json.loads((result.output / "audit.json").read_bytes())["samples"][0]["tokens"])
    assert "Write to ••••" in shown
    assert "whitfield" not in shown
    assert "whitfield" not in result.page
