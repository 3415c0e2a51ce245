"""The whole evaluation against a real vLLM: figures equal those that transformers computes from the same weights."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.evaluator.conftest import pair, write_rows
from tests.vllm_server import VllmServer
from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import Cancelled, InvalidSpec, Refused, Unauthenticated
from tunewright.evaluator import stage
from tunewright.evaluator.spec import EvaluationSpec

pytestmark = pytest.mark.heavy

MakeReporter = Callable[..., Any]
END = "<|im_end|>"
CONVERSATIONS = [
    *[pair(f"What is {n} plus {n}?", f"It is {2 * n}. 答え") for n in range(10)],
    pair("Two turns?", "Yes.") + pair("Really?", "Two.\n\n    indented"),
    pair("<script>alert('x')</script>", "<b>bold</b> & co"),
]
TOO_LONG = pair("x" * 300, "long")


def local_scores(
    folder: Path, adapter: Path | None, conversations: list[list[dict[str, str]]]
) -> tuple[float, int, int]:
    """Return (nats, answer tokens, first choices) by transformers, with spans from the template's own marks."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter))
    nats, tokens, correct = 0.0, 0, 0
    for messages in conversations:
        encoded: Any = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["assistant_masks"]).bool()[1:]
        with torch.inference_mode():
            logits = model(ids[None]).logits[0, :-1].float()[mask]
        wanted = ids[1:][mask]
        nats += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        tokens += len(wanted)
        correct += int((logits.argmax(-1) == wanted).sum())
    return nats, tokens, correct


@pytest.fixture(scope="module")
def evaluated(
    engine: VllmServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Manifest, Path, list[dict[str, Any]]]:
    """Return manifest, report folder and events of one evaluation, shared by the tests that only look."""
    from tunewright.chassis.reporter import StageReporter  # noqa: PLC0415 - keeps the module's imports to what is tested

    folder = tmp_path_factory.mktemp("evaluated")
    dataset = write_rows(folder / "dataset", [*CONVERSATIONS, TOO_LONG])
    targets = {name: {"endpoint": engine.endpoint, "served_model_name": name} for name in ("base", "tuned")}
    events: list[dict[str, Any]] = []
    report = StageReporter(events.append, folder / "checkpoints", None, targets)
    output = folder / "output"
    output.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_ENGINE_KEY", engine.key)
        spec = EvaluationSpec(sample_count=12, max_new_tokens=12)
        manifest = stage.run(spec, {"dataset": dataset}, output, report)
    return manifest, output, events


def test_losses_and_accuracies_are_those_of_transformers_on_the_same_weights(
    evaluated: tuple[Manifest, Path, Any], tiny: Path, adapter: Path
) -> None:
    metrics = evaluated[0].metrics
    for name, weights in (("base", None), ("tuned", adapter)):
        nats, tokens, correct = local_scores(tiny, weights, CONVERSATIONS)
        assert metrics["answer_tokens"] == tokens
        # vLLM computes in bf16, transformers here in fp32: logits of a deviation of 1 differ by up to 2^-8 of that.
        assert metrics[f"{name}_eval_loss"] == pytest.approx(nats / tokens, abs=0.01)
        assert metrics[f"{name}_token_accuracy"] == pytest.approx(correct / tokens, abs=0.02)
    assert metrics["base_eval_loss"] != pytest.approx(metrics["tuned_eval_loss"], abs=0.02)
    assert metrics["rows"] == len(CONVERSATIONS)


def test_documents_are_scored_on_all_their_tokens_as_far_as_they_fit(
    runtime: dict[str, Any], tmp_path: Path, make_reporter: MakeReporter, tiny: Path
) -> None:
    texts = [f"The river {n} runs by the old town. 河" for n in range(6)] + ["x y " * 400]
    rows = "".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts))
    (tmp_path / "validation.jsonl").write_text(rows, "utf-8")
    output = tmp_path / "output"
    output.mkdir()
    report, _ = make_reporter(**runtime)
    metrics = stage.run(EvaluationSpec(), {"dataset": tmp_path}, output, report).metrics
    document = json.loads((output / "report.json").read_text("utf-8"))
    assert metrics["rows"] == 7
    assert document["samples"] == document["rows_too_long"] == []
    assert "all tokens of the documents" in (output / "report.html").read_text("utf-8")
    tokenizer: Any = AutoTokenizer.from_pretrained(str(tiny))
    model: Any = AutoModelForCausalLM.from_pretrained(str(tiny), dtype=torch.float32)
    for text, row in zip(texts[:6], document["rows"], strict=False):
        ids = torch.tensor(tokenizer(text)["input_ids"])
        with torch.inference_mode():
            loss = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1].float(), ids[1:])
        assert row["answer_tokens"] == len(ids) - 1
        assert row["base_loss"] == pytest.approx(float(loss), abs=0.02)


def test_of_a_pair_of_answers_the_chosen_one_is_scored(
    runtime: dict[str, Any], tmp_path: Path, make_reporter: MakeReporter
) -> None:
    question, answer = CONVERSATIONS[0]
    pairs, plain = tmp_path / "pairs", write_rows(tmp_path / "plain", [CONVERSATIONS[0]])
    pairs.mkdir()
    row = {"id": "1", "messages": [question], "chosen": answer["content"], "rejected": "No."}
    (pairs / "validation.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    found = []
    for folder in (pairs, plain):
        report, _ = make_reporter(**runtime)
        found.append(stage.run(EvaluationSpec(sample_count=0), {"dataset": folder}, tmp_path, report).metrics)
    assert found[0]["answer_tokens"] == found[1]["answer_tokens"]
    assert found[0]["base_eval_loss"] == pytest.approx(found[1]["base_eval_loss"], abs=1e-3)


def test_rows_longer_than_the_context_are_left_out_and_told(
    evaluated: tuple[Manifest, Path, list[dict[str, Any]]],
) -> None:
    _, output, events = evaluated
    document = json.loads((output / "report.json").read_text("utf-8"))
    assert len(document["rows_too_long"]) == 1
    [event] = [event for event in events if event["type"] == "rows_left_out"]
    assert event["severity"] == "warning"
    assert "1 of 13 rows" in event["message"]


def test_the_report_shows_every_sample_of_both_models_and_the_same_figures(
    evaluated: tuple[Manifest, Path, Any],
) -> None:
    manifest, output, _ = evaluated
    document = json.loads((output / "report.json").read_text("utf-8"))
    assert manifest.kind is Kind.REPORT
    assert document["figures"]["loss"]["base"]["value"] == round(manifest.metrics["base_eval_loss"], 4)
    assert len(document["samples"]) == len(CONVERSATIONS)
    assert any(sample["base_answer"] != sample["tuned_answer"] for sample in document["samples"])
    interval = document["figures"]["loss"]["difference"]
    assert interval["low"] <= interval["value"] <= interval["high"]


def test_the_page_is_self_contained_and_escapes_what_people_and_models_wrote(
    evaluated: tuple[Manifest, Path, Any],
) -> None:
    text = (evaluated[1] / "report.html").read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert" in text
    assert not re.search(r"(src|href)=|url\(|@import", text)
    assert text.count('class="point') == len(CONVERSATIONS)
    open_tags: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            del attrs
            if tag not in {"meta", "br", "line", "circle", "rect"}:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in {"line", "circle", "rect"}:
                assert open_tags.pop() == tag

    Checker().feed(text)
    assert open_tags == []


def test_the_same_evaluation_gives_the_same_report(
    evaluated: tuple[Manifest, Path, Any], runtime: dict[str, Any], tmp_path: Path, make_reporter: MakeReporter
) -> None:
    """Concurrency 1 twice: batches are equal then, so are the last bits."""
    dataset = write_rows(tmp_path / "dataset", CONVERSATIONS[:4])
    pages = []
    for number in range(2):
        output = tmp_path / f"output-{number}"
        output.mkdir()
        report, _ = make_reporter(**runtime)
        stage.run(EvaluationSpec(sample_count=2, max_new_tokens=6, concurrency=1), {"dataset": dataset}, output, report)
        pages.append((output / "report.json").read_bytes() + (output / "report.html").read_bytes())
    assert pages[0] == pages[1]
    del evaluated


def test_a_model_against_itself_shows_no_difference(
    engine: VllmServer, runtime: dict[str, Any], tmp_path: Path, make_reporter: MakeReporter
) -> None:
    """Under another name of its address it counts as a second engine, so both are asked at once."""
    twin = {"endpoint": engine.endpoint.replace("127.0.0.1", "localhost"), "served_model_name": "base"}
    report, events = make_reporter(base=runtime["base"], tuned=twin)
    output = tmp_path / "output"
    output.mkdir()
    dataset = write_rows(tmp_path / "dataset", CONVERSATIONS)
    metrics = stage.run(EvaluationSpec(max_new_tokens=8), {"dataset": dataset}, output, report).metrics
    assert metrics["base_eval_loss"] == pytest.approx(metrics["tuned_eval_loss"], abs=1e-3)
    assert metrics["base_token_f1"] == metrics["tuned_token_f1"]
    [verdict] = [event["message"] for event in events if event["type"] == "verdict"]
    assert verdict.startswith("No difference is shown")


def test_a_stop_between_two_requests_ends_it_and_leaves_no_report(
    runtime: dict[str, Any], tmp_path: Path, make_reporter: MakeReporter
) -> None:
    report, events = make_reporter(**runtime)
    true_check = report.raise_if_stopped

    def check() -> None:
        if any(event["type"] == "progress" for event in events):
            raise Cancelled("somebody cancelled")
        true_check()

    report.raise_if_stopped = check
    dataset = write_rows(tmp_path / "dataset", CONVERSATIONS)
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(Cancelled):
        stage.run(EvaluationSpec(concurrency=2), {"dataset": dataset}, output, report)
    assert list(output.iterdir()) == []


def test_a_wrong_key_is_named_and_not_shown(
    runtime: dict[str, Any], tmp_path: Path, make_reporter: MakeReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_ENGINE_KEY", "wrong-key-nobody-should-read")
    report, events = make_reporter(**runtime)
    with pytest.raises(Unauthenticated, match="refuses the key") as caught:
        stage.run(EvaluationSpec(), {"dataset": write_rows(tmp_path, CONVERSATIONS)}, tmp_path, report)
    assert "wrong-key" not in str(caught.value) + json.dumps(events)


def test_rows_that_all_exceed_the_context_are_refused_with_the_setting_to_raise(
    runtime: dict[str, Any], tmp_path: Path, make_reporter: MakeReporter
) -> None:
    report, _ = make_reporter(**runtime)
    with pytest.raises(Refused, match="no held-out row fits") as caught:
        stage.run(EvaluationSpec(), {"dataset": write_rows(tmp_path, [TOO_LONG])}, tmp_path, report)
    assert "max_model_len" in caught.value.remedy


def test_a_missing_endpoint_is_named(tmp_path: Path, make_reporter: MakeReporter) -> None:
    report, _ = make_reporter(base={"endpoint": "http://127.0.0.1:1/v1", "served_model_name": "base"})
    with pytest.raises(InvalidSpec, match="where the tuned model answers"):
        stage.run(EvaluationSpec(), {"dataset": write_rows(tmp_path, CONVERSATIONS)}, tmp_path, report)
