"""The commands as a person's shell runs them: words, exit codes, never a traceback."""

import json
from pathlib import Path

from tests.cli.gateway_server import Script, event, gateway_server, story
from tests.cli.shell import tunewright


def recipe(folder: Path) -> str:
    (folder / "raw.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    path = folder / "recipe.yaml"
    path.write_text("name: bot\nbase_model: tiny\ndata:\n  - path: raw.jsonl\ntraining:\n  lora: 16\n")
    return str(path)


def test_run_uploads_submits_watches_and_ends_with_a_table(tmp_path: Path) -> None:
    script = Script(events=story())
    with gateway_server(script) as url:
        done = tunewright("run", recipe(tmp_path), url=url)
    assert done.returncode == 0, done.stderr
    assert script.recipes[0]["data"] == [{"file": f"file-{'f' * 64}"}]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [
        "train",
        "succeeded",
        "1",
        "min",
        "01",
        "s",
        "loss",
        "1.5",
        "·",
        "eval",
        "loss",
        "2.25",
        "·",
        "tok/s",
        "512",
    ] in lines
    assert ["prepare", "succeeded", "1.5", "s", "datasets/aaaaaaaaaaaa"] in lines
    assert "\x1b" not in done.stdout, "into a pipe go plain lines"


def test_a_folder_is_sent_file_by_file_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    path = Path(recipe(tmp_path))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "c.pdf"):
        (folder / name).write_text(f"This is {name}.")
    path.write_text(path.read_text().replace("raw.jsonl", "corpus"))
    script = Script(events=story())
    with gateway_server(script) as url:
        done = tunewright("run", str(path), "--detach", url=url)
    assert done.returncode == 0, done.stderr
    assert "corpus: 2 files, 0.0 MB; left out: c.pdf (no data by its name)" in done.stdout
    assert script.uploads == [b"This is a.txt.", b"This is b.txt."]
    assert script.recipes[0]["data"] == [{"name": "corpus", "file": f"file-{'f' * 64}"}] * 2


def test_what_the_gateway_finds_wrong_is_told_with_the_recipes_lines(tmp_path: Path) -> None:
    violations = [{"field": "training.lora", "description": "unknown name; did you mean 'lora_r'?"}]
    said = {"reason": "INVALID_SPEC", "remedy": "Correct it.", "violations": violations}
    script = Script(refuse_runs={"message": "the recipe is not valid: …", "tunewright": said})
    with gateway_server(script) as url:
        refused = tunewright("run", recipe(tmp_path), url=url)
    assert refused.returncode == 1
    assert "recipe.yaml:6: training.lora: unknown name; did you mean 'lora_r'?" in refused.stderr
    assert "Correct it." in refused.stderr
    assert script.uploads == [], "nothing is uploaded for a recipe that cannot run"


def test_a_failed_run_ends_with_its_error_and_its_remedy() -> None:
    failure = {"stage": "train", "message": "the base model is quantised", "remedy": "Name a full-precision one."}
    events = [*story()[:4], event(5, "run", state="failed", failure=failure)]
    script = Script(events=events, state="failed", failure=failure)
    with gateway_server(script) as url:
        failed = tunewright("watch", "run-1", url=url)
    assert failed.returncode == 1
    assert "run run-1 failed in train: the base model is quantised" in failed.stderr
    assert "Name a full-precision one." in failed.stderr


def test_detach_prints_the_run_alone(tmp_path: Path) -> None:
    with gateway_server(Script()) as url:
        assert tunewright("run", recipe(tmp_path), "--detach", url=url).stdout == "run-1\n"


def test_chat_answers_one_question_or_a_conversation() -> None:
    with gateway_server(Script()) as url:
        assert tunewright("chat", "bot", "-m", "hi", url=url).stdout == "you said: hi\n"
        talk = tunewright("chat", "bot", url=url, stdin="one\n/reset\ntwo\n/exit\n")
    assert "you said: one\n" in talk.stdout
    assert "you said: two\n" in talk.stdout


def test_lists_are_plain_columns_in_a_pipe() -> None:
    with gateway_server(Script()) as url:
        assert tunewright("runs", url=url).stdout.splitlines()[1].split()[:3] == ["run-1", "bot", "succeeded"]
        assert tunewright("models", url=url).stdout.splitlines()[1].split()[0] == "bot"


def test_every_failure_is_one_message_with_a_remedy_and_an_exit_code(tmp_path: Path) -> None:
    missing = tunewright("run", str(tmp_path / "missing.yaml"))
    nowhere = tunewright("models")
    silent = tunewright("models", url="http://127.0.0.1:9")
    with gateway_server(Script()) as url:
        unknown = tunewright("watch", "run-2", url=url)
        keyless = tunewright("models", url=url, key="wrong")
    for failed in (missing, nowhere, silent, unknown, keyless):
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: ")
        assert "→" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert failed.stdout == ""
    assert "the API key is not valid" in keyless.stderr
    assert "no run '/v1/runs/run-2'" in unknown.stderr


def test_doctor_as_json_says_fit_by_its_exit_code() -> None:
    done = tunewright("doctor", "--json")
    assert (done.returncode == 0) == json.loads(done.stdout)["fit"]
