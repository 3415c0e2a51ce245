"""Raw file to answering endpoint, through every room, with real parts only."""

import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from openai import OpenAI

from tests.cli.shell import tunewright
from tests.flow.conftest import RECIPE, Running, write_recipe
from tunewright.cli.stack.services import ROOMS
from tunewright.v1 import job_pb2, job_pb2_grpc

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


def test_the_tuned_model_answers_by_openais_sdk_under_its_own_name(stack: Running, finished: dict[str, Any]) -> None:
    client = OpenAI(base_url=stack.url + "/v1", api_key=stack.key)
    assert {finished["model"], finished["base_model"]} <= {model.id for model in client.models.list()}
    messages: Any = [{"role": "user", "content": "Say the number 7 twice."}]
    answer = client.chat.completions.create(model="parrot", messages=messages, max_tokens=16, temperature=0)
    base = client.chat.completions.create(model="parrot-base", messages=messages, max_tokens=16, temperature=0)
    assert answer.choices[0].message.content != base.choices[0].message.content
    pieces = list(
        client.chat.completions.create(model="parrot", messages=messages, max_tokens=8, temperature=0, stream=True)
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert (answer.choices[0].message.content or "").startswith(text[:4])


def test_the_tuned_model_is_better_on_rows_it_never_saw(stack: Running, finished: dict[str, Any]) -> None:
    metrics = stack.get(f"/v1/artifacts/{finished['artifacts']['evaluate']}")["metrics"]
    assert metrics["tuned_eval_loss"] < 0.7 * metrics["base_eval_loss"]
    assert metrics["rows"] == 8


def test_every_row_is_accounted_for(stack: Running, finished: dict[str, Any]) -> None:
    metrics = stack.get(f"/v1/artifacts/{finished['artifacts']['prepare']}")["metrics"]
    assert metrics["rows_in"] == 62
    assert metrics["rows_in"] == metrics["rows_out"] + sum(metrics["dropped"].values())
    assert metrics["rows_out"] == metrics["train_rows"] + metrics["validation_rows"] == 60


def test_the_chain_of_manifests_leads_from_the_report_to_the_raw_bytes(
    stack: Running, finished: dict[str, Any]
) -> None:
    lineage = stack.get(f"/v1/artifacts/{finished['artifacts']['evaluate']}/lineage")
    kinds = [manifest["kind"] for manifest in lineage["data"]]
    assert set(kinds) == {"reports", "models", "adapters", "datasets", "uploads"}
    assert kinds.count("models") == 2


def test_the_same_recipe_again_finds_every_artifact_and_repeats_nothing(
    stack: Running, finished: dict[str, Any], tmp_path: Path
) -> None:
    started = time.monotonic()
    again = stack.wait_for_end(stack.submit(write_recipe(tmp_path)))
    assert again["state"] == "succeeded"
    assert again["artifacts"] == finished["artifacts"]
    assert time.monotonic() - started < 60


def test_every_room_speaks_grpc_reflection_health_and_prometheus(stack: Running) -> None:
    tls = stack.folder.tls
    grpcurl = [
        str(Path(sys.executable).with_name("grpcurl")),
        *("-cacert", str(tls / "ca.pem"), "-cert", str(tls / "gateway.pem"), "-key", str(tls / "gateway.key")),
    ]
    services = stack.folder.status().services
    for room in ROOMS:
        address = services[room].addresses["grpc"]
        listed = subprocess.run([*grpcurl, address, "list"], check=True, capture_output=True, text=True, timeout=30)
        assert "grpc.health.v1.Health" in listed.stdout
        assert "tunewright.v1." in listed.stdout
        checked = subprocess.run(
            [*grpcurl, address, "grpc.health.v1.Health/Check"], check=True, capture_output=True, text=True, timeout=30
        )
        assert '"SERVING"' in checked.stdout
    for name in (*ROOMS, "gateway"):
        page = urllib.request.urlopen(f"http://{services[name].addresses['metrics']}/metrics", timeout=10).read()
        lint = subprocess.run(
            ["promtool", "check", "metrics"], input=page, capture_output=True, timeout=30, check=False
        )
        assert lint.returncode == 0, lint.stderr.decode()


def test_a_peer_without_a_certificate_gets_no_answer(stack: Running) -> None:
    address = stack.folder.status().services["trainer"].addresses["grpc"]
    stranger = grpc.ssl_channel_credentials((stack.folder.tls / "ca.pem").read_bytes())
    with grpc.secure_channel(address, stranger) as channel, pytest.raises(grpc.RpcError) as caught:
        job_pb2_grpc.JobServiceStub(channel).ListJobs(job_pb2.ListJobsRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("learning_rate", "lerning_rate"), ["training.lerning_rate", "did you mean", "learning_rate"]),
        (("max_steps: 60", "max_steps: many"), ["training.max_steps"]),
        (("learning_rate: 5.0e-3", "learning_rate: -1"), ["training.learning_rate"]),
        (("base_model: tiny_model", "base_model: nobody_made_this"), ["nobody_made_this"]),
        (("path: raw.jsonl", "path: missing.jsonl"), ["missing.jsonl"]),
    ],
)
def test_a_wrong_recipe_is_refused_at_once_by_name(
    stack: Running, tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace(*change))
    refused = tunewright("run", str(recipe), "--detach", "--dir", str(stack.folder.path), timeout=60)
    assert refused.returncode != 0
    assert all(word in refused.stderr for word in words), refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["raw.jsonl", "empty"]),
        (b"this is no JSON\n" * 20, ["raw.jsonl:1"]),
        (b'{"question": "a", "reply": "b"}\n' * 20, ["raw.jsonl", "question"]),
        (b'{"instruction": "caf\xe9", "output": "x"}\n', ["raw.jsonl", "byte"]),
    ],
    ids=["empty", "not JSON", "wrong fields", "unreadable encoding"],
)
def test_a_wrong_file_ends_the_run_with_one_clear_error(
    stack: Running, tmp_path: Path, content: bytes, words: list[str]
) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "raw.jsonl").write_bytes(content)
    done = tunewright("run", str(recipe), "--dir", str(stack.folder.path), timeout=120)
    assert done.returncode != 0
    assert all(word in done.stdout + done.stderr for word in words), done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_is_paused_resumed_from_its_checkpoint_and_cancelled(stack: Running, tmp_path: Path) -> None:
    def ask(command: str) -> None:
        done = tunewright(command, run_id, "--dir", str(stack.folder.path))
        assert done.returncode == 0, done.stderr

    run_id = stack.submit(write_recipe(tmp_path, RECIPE.replace("max_steps: 60", "max_steps: 5000")))
    stack.wait(run_id, lambda run: run["stage"] == "train", 120)
    trainer = psutil.Process(stack.pid("trainer"))
    stack.first_event(run_id, "checkpoint")
    assert trainer.children()
    ask("pause")
    stack.wait(run_id, lambda run: run["state"] == "paused", 60)
    assert not trainer.children()  # nothing holds a GPU
    ask("resume")
    assert stack.first_event(run_id, "resume")["data"]["step"] > 0
    ask("cancel")
    assert stack.wait_for_end(run_id, 60)["state"] == "cancelled"
