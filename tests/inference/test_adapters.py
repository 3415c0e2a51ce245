"""Adapters on one running engine: brought, proven, asked, pushed out, taken away, brought back after a crash.

Each adapter was trained to say a secret of its own, so that an answer of the wrong one is seen. One engine for all.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.gateway.processes import Gateway, Process
from tests.inference.secret_adapters import QUESTION
from tests.inference.service_process import KEY, ServiceProcess, engine_client
from tests.inference.service_process import SPEC as SERVICE_SPEC
from tests.inference.swaps import SPEC, ask, swap_under_load
from tests.seaweed import S3Settings
from tunewright.artifacts import ArtifactRef, Kind, Manifest, S3Store, seal
from tunewright.artifacts.transfer import commit
from tunewright.v1 import inference_pb2

_ROOT = Path(__file__).parents[2]
_COUNT = 10
pytestmark = pytest.mark.heavy
Adapters = list[tuple[ArtifactRef, str]]


@pytest.fixture(scope="module")
def adapter_service(
    s3_store_settings: S3Settings, store: S3Store, bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    assert store  # makes the bucket
    found = ServiceProcess(tmp_path_factory.mktemp("adapters"), s3_store_settings.environment(bucket))
    found.start()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def front(
    adapter_service: ServiceProcess,
    s3_store_settings: S3Settings,
    bucket: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway before the service; the rooms that it does not ask here have the same address."""
    folder = tmp_path_factory.mktemp("front")
    rooms = {name: Process([], {}, folder) for name in ("dataprep", "trainer", "merger", "evaluator", "inference")}
    for room in rooms.values():
        room.addresses = {"grpc": adapter_service.addresses["grpc"]}
    environment = s3_store_settings.environment(bucket)
    gateway = Gateway(rooms, environment, folder, inference_engine_key=KEY, recovery_wait_seconds="300")
    gateway.start()
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def secrets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("secrets")
    command = [sys.executable, "-m", "tests.inference.secret_adapters", str(target), str(_COUNT)]
    subprocess.run(command, check=True, cwd=_ROOT, capture_output=True)
    return target


@pytest.fixture(scope="module")
def adapters(store: S3Store, secrets_folder: Path, refs: dict[str, ArtifactRef]) -> Adapters:
    secrets = json.loads((secrets_folder / "secrets.json").read_text())
    return [
        (_commit(store, secrets_folder / str(number), refs["golden"]), secret) for number, secret in enumerate(secrets)
    ]


@pytest.fixture(scope="module")
def served(
    adapter_service: ServiceProcess, adapters: Adapters, refs: dict[str, ArtifactRef]
) -> list[inference_pb2.Deployment]:
    """All of them, deployed and ready."""
    for number, (ref, _) in enumerate(adapters):
        adapter_service.deploy(f"keeper-{number}", refs["golden"], ref, **SPEC)
    return [adapter_service.wait(f"keeper-{number}", "READY") for number in range(_COUNT)]


def test_many_adapters_share_one_engine_and_each_says_its_own_secret(
    adapter_service: ServiceProcess, served: list[inference_pb2.Deployment], adapters: Adapters
) -> None:
    assert len({deployment.endpoint for deployment in served}) == 1
    assert len(adapter_service.engine_processes("VLLM::EngineCore")) == 1
    for _ in range(2):  # with 2 slots and 4 in memory, each comes back from disk in the second round
        said = [_ask(deployment) for deployment in served]
        assert said == [secret for _, secret in adapters]
    assert "prompt tokens equal in 1 of 1, first token agrees in 100%, greedy tokens in 100%" in served[0].detail


def test_adapters_come_and_go_under_load_and_no_answer_fails_or_is_mixed_up(
    adapter_service: ServiceProcess,
    served: list[inference_pb2.Deployment],
    adapters: Adapters,
    refs: dict[str, ArtifactRef],
) -> None:
    assert served
    outcome = swap_under_load(adapter_service, refs["golden"], adapters, swaps=20)
    assert outcome.failed == []
    assert outcome.mixed_up == []
    assert outcome.answered > 20
    assert len(adapter_service.engine_processes("VLLM::EngineCore")) == 1


def test_an_adapter_that_changes_nothing_is_refused_and_not_left_in_the_engine(
    adapter_service: ServiceProcess,
    served: list[inference_pb2.Deployment],
    store: S3Store,
    secrets_folder: Path,
    refs: dict[str, ArtifactRef],
    tmp_path: Path,
) -> None:
    _untrained(secrets_folder / "0", tmp_path / "untrained")
    ref = _commit(store, tmp_path / "untrained", refs["golden"])
    adapter_service.deploy("untrained", refs["golden"], ref, **SPEC)
    failed = adapter_service.wait("untrained", "FAILED")
    assert failed.failure.reason == "REFUSED"
    assert "the adapter changes nothing" in failed.failure.message
    assert failed.served_model_name not in _names(served[0])
    adapter_service.undeploy("untrained")


@pytest.mark.parametrize("field", ["use_dora", "modules_to_save"])
def test_an_adapter_that_vllm_cannot_serve_is_refused_by_name_and_told_to_be_merged(
    adapter_service: ServiceProcess,
    store: S3Store,
    secrets_folder: Path,
    refs: dict[str, ArtifactRef],
    tmp_path: Path,
    field: str,
) -> None:
    folder = tmp_path / field
    subprocess.run(["cp", "-r", str(secrets_folder / "0"), str(folder)], check=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {field: ["lm_head"]}))
    adapter_service.deploy(field.replace("_", "-"), refs["golden"], _commit(store, folder, refs["golden"]), **SPEC)
    failed = adapter_service.wait(field.replace("_", "-"), "FAILED")
    assert failed.failure.reason == "REFUSED"
    assert field in failed.failure.message
    assert "Merge the adapter" in failed.failure.remedy
    adapter_service.undeploy(field.replace("_", "-"))


def test_an_undeployed_adapter_answers_a_moment_longer_and_is_then_unknown(
    adapter_service: ServiceProcess, served: list[inference_pb2.Deployment], adapters: Adapters
) -> None:
    last = served[-1]
    stopped = adapter_service.undeploy(last.name)
    assert stopped.state == inference_pb2.DEPLOYMENT_STATE_STOPPED
    assert _ask(last) == adapters[-1][1], "a request that was routed before is still answered"
    deadline = time.monotonic() + 15
    while last.served_model_name in _names(served[0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        _ask(last)


def test_a_name_moves_from_one_adapter_to_another_and_back_under_load_and_no_answer_fails(
    front: Gateway, served: list[inference_pb2.Deployment], adapters: Adapters
) -> None:
    assert served
    (first, old), (second, new) = adapters[:2]
    _publish(front, "moving", first, 1)
    answers: list[tuple[float, int, str]] = []
    with ThreadPoolExecutor(4) as pool:
        done = threading.Event()
        running = [pool.submit(_keep_asking, front, "moving", done, answers) for _ in range(4)]
        try:
            _publish(front, "moving", second, 2)
            moved = time.monotonic()
            time.sleep(1)
            front.post("/v1/aliases/moving/rollback", {"why": "the test says so"})
            _wait_for(front, "moving", 1)
            back = time.monotonic()
            time.sleep(1)
        finally:
            done.set()
        for future in running:
            future.result()
    assert {status for _, status, _ in answers} == {200}
    assert {said for _, _, said in answers} == {old, new}
    assert {said for at, _, said in answers if at > back} == {old}
    assert any(said == new for at, _, said in answers if moved < at < back)


def test_a_kill_of_the_engine_under_load_costs_answers_under_way_only_and_all_come_back_with_their_own_secrets(
    adapter_service: ServiceProcess, front: Gateway, served: list[inference_pb2.Deployment], adapters: Adapters
) -> None:
    askers = 4
    _publish(front, "killed", adapters[2][0], 1)
    answers: list[tuple[float, int, str]] = []
    with ThreadPoolExecutor(askers) as pool:
        done = threading.Event()
        running = [pool.submit(_keep_asking, front, "killed", done, answers, stream=True) for _ in range(askers)]
        try:
            time.sleep(1)
            killed = time.monotonic()
            for process in adapter_service.engine_processes("VLLM::EngineCore"):
                process.kill()
            recovering = adapter_service.wait("keeper-0", "RECOVERING")
            again = [adapter_service.wait(deployment.name, "READY") for deployment in served[:-1]]
            time.sleep(2)
        finally:
            done.set()
        for future in running:
            future.result()
    assert recovering.endpoint == ""
    assert recovering.failure.reason == "ENGINE_DIED"
    assert [_ask(deployment) for deployment in again] == [secret for _, secret in adapters[:-1]]
    assert again[0].restarts == 1
    lost = [(at, said) for at, status, said in answers if status != 200 or said != adapters[2][1]]
    assert len(lost) <= askers, lost
    assert all(killed - 5 < at for at, _ in lost), "nothing failed before the kill"
    assert all("server_error" in said for _, said in lost), lost
    assert sum(at > killed for at, _, _ in answers) > askers, "answers go on by themselves"


def _publish(front: Gateway, alias: str, adapter: ArtifactRef, number: int) -> None:
    front.post(f"/v1/aliases/{alias}/versions", {"artifact": str(adapter), "spec": SERVICE_SPEC | SPEC})
    _wait_for(front, alias, number)


def _wait_for(front: Gateway, alias: str, number: int) -> None:
    deadline = time.monotonic() + 60
    while front.get(f"/v1/aliases/{alias}")["serving"] != number:
        assert time.monotonic() < deadline, front.get(f"/v1/aliases/{alias}")
        time.sleep(0.05)


def _keep_asking(
    front: Gateway, model: str, done: threading.Event, answers: list[tuple[float, int, str]], *, stream: bool = False
) -> None:
    """Ask until it is done; keep when each question was asked, its status, and the secret or the error that came."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 7, "temperature": 0}
    with front.client() as client:
        client.timeout = httpx.Timeout(320)
        while not done.is_set():
            at = time.monotonic()
            answer = client.post("/v1/chat/completions", json=body | {"stream": stream})
            answers.append((at, answer.status_code, _said(answer.text) if stream else _content(answer)))


def _content(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"]) if answer.is_success else answer.text


def _said(events: str) -> str:
    """Return the text of a stream, or the stream itself if it holds an error or has no end."""
    if "error" in events or "[DONE]" not in events:
        return events
    documents = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
    return "".join(item["choices"][0]["delta"].get("content") or "" for item in documents if item["choices"])


def _ask(deployment: inference_pb2.Deployment) -> str:
    with engine_client(deployment) as client:
        return ask(client, deployment.served_model_name)


def _names(deployment: inference_pb2.Deployment) -> list[str]:
    with engine_client(deployment) as client:
        return [found["id"] for found in client.get("/models").json()["data"]]


def _untrained(source: Path, target: Path) -> None:
    """Write a copy of an adapter whose B matrices are zero, as they are before training."""
    code = (
        "import sys; from safetensors.torch import load_file, save_file; from pathlib import Path; import shutil;"
        "a, b = map(Path, sys.argv[1:]); shutil.copytree(a, b); (b / 'golden.json').unlink();"
        "f = b / 'adapter_model.safetensors'; t = load_file(f);"
        "save_file({k: v * 0 if 'lora_B' in k else v for k, v in t.items()}, f, metadata={'format': 'pt'})"
    )
    subprocess.run([sys.executable, "-c", code, str(source), str(target)], check=True, capture_output=True)


def _commit(store: S3Store, folder: Path, base: ArtifactRef) -> ArtifactRef:
    manifest = seal(Manifest(kind=Kind.ADAPTER, created_by="test"), folder, {"base": base})
    return commit(store, manifest, folder)
