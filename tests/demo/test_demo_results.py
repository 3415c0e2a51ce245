"""What the demo says at its end: the right rows asked, the right figures told, a failed stage never called success."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demo import run as demo_run
from demo.questions import Answer, ask_both, held_out
from demo.results import Facts, gather, show, summary
from tests.cli.gateway_server import KEY, Script, gateway_server, story
from tunewright.cli.client import Gateway
from tunewright.cli.console import make_console
from tunewright.cli.endpoint import Endpoint
from tunewright.cli.errors import CliError
from tunewright.cli.recipe import Recipe, load_recipe
from tunewright.cli.stack.folder import StackFolder

DATASET = f"datasets/{'a' * 64}"
METRICS: dict[str, dict[str, Any]] = {
    "prepare": {"rows_in": 3493, "rows_out": 1200, "dropped": {"duplicate": 1000, "too_long": 1293}},
    "train": {"first_eval_loss": 3.1, "best_eval_loss": 2.0},
    "merge": {"merge_max_kl": 0.0004, "merge_top1_agreement": 0.998, "stage_seconds": 12.5},
    "evaluate": {"base_eval_loss": 3.0, "tuned_eval_loss": 1.75, "stage_peak_rss_bytes": 2**30},
}


def facts() -> Facts:
    stages = [{"name": name, "seconds": 10.0} for name in METRICS] + [{"name": "promote", "seconds": None}]
    run = {"id": "run-1", "name": "bot", "base_model": "bot-base", "stages": stages, "artifacts": {}}
    manifests = {stage: {"metrics": metrics} for stage, metrics in METRICS.items()}
    return Facts(run=run, manifests=manifests, url="http://127.0.0.1:1", stack="/stack", serving_bytes=3 * 2**30)


def recipe(folder: Path) -> Recipe:
    (folder / "raw.jsonl").write_text("{}\n")
    (folder / "recipe.yaml").write_text("name: bot\nbase_model: tiny\ndata: [{path: raw.jsonl}]\n")
    return load_recipe(folder / "recipe.yaml")


def endpoint(url: str) -> Endpoint:
    return Endpoint(url=url, api_key=KEY, origin="a test")


def test_the_summary_holds_the_figures_of_the_manifests() -> None:
    document = summary(facts(), [], {"up": 5.0, "run": 400.25, "answers": 2.0})
    assert json.loads(json.dumps(document)) == document
    assert (document["rows_in"], document["rows_out"]) == (3493, 1200)
    assert (document["base_eval_loss"], document["tuned_eval_loss"]) == (3.0, 1.75)
    assert document["merge_max_kl"] == 0.0004
    assert document["seconds"] == dict.fromkeys(METRICS, 10.0), "a stage that did not run has no seconds"
    assert document["made_in_seconds"]["merge"] == 12.5
    assert document["peak_rss_bytes"]["evaluate"] == 2**30
    assert (document["endpoint"], document["model"]) == ("http://127.0.0.1:1/v1", "bot")
    assert (document["serving_after_seconds"], document["total_seconds"]) == (405.25, 407.25)


def test_the_table_tells_rows_losses_answers_and_what_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(question="What does [it] do?", expected="It lists.", base="I cannot say.", tuned="It lists them.")
    show(summary(facts(), [answer], {"run": 1.0}), Console(width=200, no_color=True))
    shown = capsys.readouterr().out
    for words in (
        "3493 in → 1200 out",
        "dropped: 1293 too long, 1000 duplicate",
        "base 3.000 → tuned 1.750 nats a token (perplexity 20.1 → 5.8)",
        "KL at most 0.0004",
        "What does [it] do?",
        "It lists them.",
        "http://127.0.0.1:1/v1",
        "tunewright chat bot",
        "tunewright down",
    ):
        assert words in shown


def test_the_first_rows_by_hash_are_asked_and_the_answer_itself_is_never_sent() -> None:
    rows = [
        {
            "id": digit,
            "messages": [{"role": "user", "content": f"q{digit}"}, {"role": "assistant", "content": "secret"}],
        }
        for digit in "3142"
    ]
    script = Script(validation=rows)
    with gateway_server(script) as url, Gateway(endpoint(url)) as gateway:
        chosen = held_out(gateway, script.run(), 3)
        answers = ask_both(endpoint(url), script.run(), chosen)
    assert [answer.question for answer in answers] == ["q1", "q2", "q3"]
    assert {answer.expected for answer in answers} == {"secret"}
    assert [answer.tuned for answer in answers] == ["you said: q1", "you said: q2", "you said: q3"]


def test_figures_are_read_from_each_artifacts_manifest(tmp_path: Path) -> None:
    script = Script(manifests={DATASET: METRICS["prepare"]})
    stack = StackFolder(tmp_path / "stack")
    stack.create()
    with gateway_server(script) as url, Gateway(endpoint(url)) as gateway:
        found = gather(gateway, script.run(), stack)
    assert found.metrics("prepare")["rows_out"] == 1200
    assert found.metrics("merge") == {}
    assert found.serving_bytes == 0


def test_a_failed_stage_ends_the_demo_with_its_own_words(tmp_path: Path) -> None:
    failure = {"stage": "train", "message": "out of memory", "remedy": "Lower max_length."}
    script = Script(events=story(), state="failed", failure=failure)
    with (
        gateway_server(script) as url,
        Gateway(endpoint(url)) as gateway,
        pytest.raises(CliError, match="stage train of run run-1 failed: out of memory") as caught,
    ):
        demo_run.carry_out(gateway, recipe(tmp_path), make_console())
    assert caught.value.remedy == "Lower max_length."


def test_the_demo_ends_with_exit_code_1_and_no_summary_when_it_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["demo", "--recipe", str(tmp_path / "none.yaml"), "--dir", str(tmp_path / "stack"), "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    assert demo_run.main() == 1
    assert "none.yaml cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "summary.json").exists()
