"""`docker compose up`, then the main job, as a user of one machine would do it."""

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError, OpenAI

from tests.stack.conftest import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]

ROOMS = ("dataprep", "trainer", "merger", "evaluator", "inference")
RECIPE = """\
name: parrot
base_model: tiny_model
data:
  - path: raw.jsonl
dataprep: {split: {validation_fraction: 0.2}}
training:
  max_steps: 8
  learning_rate: 2.0e-3
  max_length: 128
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 1
  eval_steps: 4
  save_steps: 4
evaluation: {max_rows: 8, sample_count: 2, max_new_tokens: 8}
deployment: {max_model_len: 256}
"""


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    rows = [{"instruction": f"Say the number {n} twice.", "output": f"{n} {n}, that is the answer."} for n in range(60)]
    (folder / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def tunewright(stack: Stack, api_key: str, *arguments: str, timeout: float = 900) -> "subprocess.CompletedProcess[str]":
    """Run the command line against the stack."""
    command = [str(Path(sys.executable).with_name("tunewright")), *arguments]
    environment = stack.environment | {"TUNEWRIGHT_URL": stack.url("gateway", 8080), "TUNEWRIGHT_API_KEY": api_key}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def test_everything_comes_up_healthy(stack: Stack) -> None:
    states = stack.states()
    assert states["credentials"]["ExitCode"] == 0
    deadline = time.monotonic() + 120
    while sick := {
        n: s["Health"] for n, s in stack.states().items() if n != "credentials" and s["Health"] != "healthy"
    }:
        assert time.monotonic() < deadline, sick
        time.sleep(2)


def test_no_container_is_root_and_no_root_can_be_written(stack: Stack) -> None:
    for service in (*ROOMS, "gateway"):
        assert stack.compose("exec", "-T", service, "id", "-u").strip() == "10001", service
        written = stack.compose("exec", "-T", service, "sh", "-c", "touch /opt/x 2>&1; echo status $?", check=False)
        assert "status 0" not in written, service


def test_a_stranger_gets_no_grpc_answer_and_a_room_does(stack: Stack) -> None:
    stranger = "import grpc; grpc.channel_ready_future(grpc.insecure_channel('trainer:50051')).result(3)"
    refused = stack.compose("exec", "-T", "dataprep", "python", "-c", stranger + "; print('answered')", check=False)
    assert "answered" not in refused
    stack.compose("exec", "-T", "trainer", "python", "-m", "tunewright.chassis.probe")


def test_a_wrong_key_is_refused(stack: Stack) -> None:
    client = OpenAI(base_url=stack.url("gateway", 8080) + "/v1", api_key="tw-wrong", max_retries=0)
    with pytest.raises(AuthenticationError):
        client.models.list()


def test_a_raw_file_becomes_an_answering_model_while_a_room_and_the_gateway_are_killed(
    stack: Stack, api_key: str, recipe: Path
) -> None:
    submitted = tunewright(stack, api_key, "run", str(recipe), "--detach")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    run_id = submitted.stdout.split()[-1]
    wait_for_stage(stack, api_key, run_id, "train")
    stack.compose("kill", "--signal", "SIGKILL", "trainer", "gateway")
    stack.compose("start", "trainer", "gateway")
    final = wait_for_end(stack, api_key, run_id)
    assert final["state"] == "succeeded", final["failure"]

    client = OpenAI(base_url=stack.url("gateway", 8080) + "/v1", api_key=api_key)
    assert "parrot" in {model.id for model in client.models.list()}
    answer = client.chat.completions.create(
        model="parrot", messages=[{"role": "user", "content": "Say the number 7 twice."}], max_tokens=8, temperature=0
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    streamed = client.chat.completions.create(
        model="parrot", messages=[{"role": "user", "content": "Say 7."}], max_tokens=4, temperature=0, stream=True
    )
    assert len(list(streamed)) > 1


def test_prometheus_sees_every_room_and_the_engines(stack: Stack) -> None:
    def query(expression: str) -> list[dict[str, Any]]:
        parameters = urllib.parse.urlencode({"query": expression})
        url = f"{stack.url('prometheus', 9090)}/api/v1/query?{parameters}"
        with urllib.request.urlopen(url, timeout=10) as response:
            found: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return found

    deadline = time.monotonic() + 90
    while not (
        {row["metric"]["service_name"] for row in query("up == 1")} == {*ROOMS, "gateway"}
        and query('tunewright_jobs_finished_total{state="SUCCEEDED"} > 0')
        and query("vllm_generation_tokens_total > 0")
    ):
        assert time.monotonic() < deadline, query("up")
        time.sleep(3)


def api(stack: Stack, api_key: str, path: str) -> dict[str, Any]:
    request = urllib.request.Request(stack.url("gateway", 8080) + path, headers={"Authorization": f"Bearer {api_key}"})
    with urllib.request.urlopen(request, timeout=20) as response:
        document: dict[str, Any] = json.load(response)
    return document


def wait_for_stage(stack: Stack, api_key: str, run_id: str, name: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while True:
        run = api(stack, api_key, f"/v1/runs/{run_id}")
        if any(stage["name"] == name and stage["state"] != "pending" for stage in run["stages"]):
            return
        assert run["state"] not in {"failed", "cancelled"}, run
        assert time.monotonic() < deadline, run
        time.sleep(0.5)


def wait_for_end(stack: Stack, api_key: str, run_id: str, seconds: float = 900) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    run: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            run = api(stack, api_key, f"/v1/runs/{run_id}")
        except (OSError, AssertionError):  # the gateway is on its way up
            run = {}
        if run.get("state") in {"succeeded", "failed", "cancelled"}:
            return run
        time.sleep(2)
    raise AssertionError(f"the run did not end: {run}")
