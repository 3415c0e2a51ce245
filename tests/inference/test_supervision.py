"""Real vLLM engines under the real service: proof before traffic, every kind of death, restarts that forget nothing.

The tests share one service and run in this order; engines take about 25 s to start, so that they share those too.
"""

import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import psutil
import pytest

from tests.chassis.certificates import Certificates, make_certificates
from tests.inference.service_process import ServiceProcess, chat, engine_client, stream
from tunewright.artifacts import ArtifactRef, Kind, S3Store
from tunewright.artifacts.layout import deployment_key
from tunewright.chassis.errors import InvalidSpec, NotFound
from tunewright.v1 import inference_pb2

ENGINE_MODULE = "vllm.entrypoints.openai.api_server"
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="session", autouse=True)
def _deployments(service: ServiceProcess, refs: dict[str, ArtifactRef]) -> None:
    """Three engines that start side by side, two at a time."""
    service.deploy("tiny", refs["golden"])
    service.deploy("foreign", refs["foreign"])
    service.deploy("adapted", refs["golden"], refs["adapter"])


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls") / "files")


@pytest.fixture(scope="session")
def trust(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca)


def test_a_damaged_model_fails_within_seconds_and_says_which_file(
    service: ServiceProcess, refs: dict[str, ArtifactRef]
) -> None:
    service.deploy("damaged", refs["damaged"])
    failed = service.wait("damaged", "FAILED")
    assert failed.failure.reason == "REFUSED"
    assert "model.safetensors is damaged" in failed.failure.message
    service.undeploy("damaged")
    with pytest.raises(NotFound):
        service.get("damaged")


def test_an_unknown_artifact_is_not_found_and_nothing_is_started(service: ServiceProcess) -> None:
    with pytest.raises(NotFound, match="f" * 64):
        service.deploy("ghost", ArtifactRef(Kind.MODEL, "f" * 64))
    assert "ghost" not in service.names()


def test_wrong_names_values_and_kinds_are_named(service: ServiceProcess, refs: dict[str, ArtifactRef]) -> None:
    with pytest.raises(InvalidSpec, match="no name for a deployment"):
        service.deploy("../etc", refs["golden"])
    with pytest.raises(InvalidSpec, match="gpu_memory_utilization"):
        service.deploy("x", refs["golden"], gpu_memory_utilization=1.5)
    with pytest.raises(InvalidSpec, match="models is needed"):
        service.deploy("x", refs["adapter"])


def test_an_engine_is_ready_only_after_it_repeated_the_golden_answers(service: ServiceProcess) -> None:
    assert service.get("tiny").endpoint == ""
    ready = service.wait("tiny", "READY")
    assert "prompt tokens equal in 4 of 4, first token agrees in 100%" in ready.detail
    assert "1 longer than max_model_len left out" in ready.detail
    assert chat(ready) >= 1


def test_golden_tokens_of_another_chat_template_are_refused_with_both_token_lists(service: ServiceProcess) -> None:
    failed = service.wait("foreign", "FAILED")
    assert failed.failure.reason == "REFUSED"
    assert "golden prompt 1: the engine's tokens differ from the trainer's from position 1" in failed.failure.message
    assert "engine [" in failed.failure.message
    assert "trainer [" in failed.failure.message
    assert failed.endpoint == ""
    service.undeploy("foreign")


def test_deploying_the_same_again_attaches_to_what_runs(service: ServiceProcess, refs: dict[str, ArtifactRef]) -> None:
    before = service.get("tiny")
    again = service.deploy("tiny", refs["golden"])
    assert again.state == inference_pb2.DEPLOYMENT_STATE_READY
    assert (again.endpoint, again.create_time) == (before.endpoint, before.create_time)


def test_answers_are_streamed_as_they_are_written(service: ServiceProcess) -> None:
    events = list(stream(service.get("tiny"), max_tokens=8))
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 8
    assert len(events) > 4, "an event may hold more than one token, but not the whole answer"


def test_an_engine_refuses_every_path_but_health_without_its_key(service: ServiceProcess) -> None:
    deployment = service.get("tiny")
    root = deployment.endpoint.removesuffix("/v1")
    for key in ("", "wrong"):
        with engine_client(deployment, key=key) as client:
            for path in ("/v1/models", "/metrics", "/version", "/load"):
                assert client.get(f"{root}{path}").status_code == httpx.codes.UNAUTHORIZED, path
            for path in ("/v1/chat/completions", "/tokenize", "/invocations", "/inference/v1/generate"):
                assert client.post(f"{root}{path}", json={}).status_code == httpx.codes.UNAUTHORIZED, path
            assert client.get(f"{root}/health").status_code == httpx.codes.OK


def test_no_secret_of_the_service_is_seen_in_the_engines_arguments_or_environment(service: ServiceProcess) -> None:
    (engine, *_) = [
        found for found in service.engine_processes("api_server") if "leash" not in " ".join(found.cmdline())
    ]
    assert not any("key-of-the-engines" in word for word in engine.cmdline())
    assert not any(name.startswith("TUNEWRIGHT_") for name in engine.environ())
    assert engine.environ()["HF_HUB_OFFLINE"] == "1"


def test_an_adapter_is_served_on_its_base_under_the_deployments_name(service: ServiceProcess) -> None:
    ready = service.wait("adapted", "READY")
    assert chat(ready) >= 1
    prompt = {"prompt": [84, 82, 68], "max_tokens": 1, "temperature": 0, "logprobs": 1}
    with engine_client(ready) as client:
        (base_name, name) = (found["id"] for found in client.get("/models").json()["data"])
        answers = [client.post("/completions", json=prompt | {"model": asked}).json() for asked in (name, base_name)]
    assert name == ready.served_model_name
    adapted, base = (answer["choices"][0]["logprobs"]["token_logprobs"][0] for answer in answers)
    assert adapted != base


def test_metrics_of_all_engines_are_shown_with_their_deployment_and_satisfy_promtool(service: ServiceProcess) -> None:
    page = service.metrics()
    base = f"base-{service.get('adapted').model.id[:12]}-1"
    for name in ("tiny", base):
        assert any(
            line.startswith("vllm_generation_tokens_total{") and f'deployment="{name}"' in line
            for line in page.splitlines()
        )
    assert 'tunewright_inference_deployments{state="READY"} 2.0' in page
    assert "tunewright_inference_adapters 1.0" in page
    assert 'tunewright_inference_golden_agreement_ratio{deployment="tiny"}' in page
    assert 'tunewright_inference_golden_agreement_ratio{deployment="adapted"} 1.0' in page
    assert page.count("# TYPE vllm_generation_tokens_total counter") == 1
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    checked = subprocess.run([promtool, "check", "metrics"], input=page, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert not checked.stderr


def test_an_undeployed_engine_is_gone_and_so_is_its_record(service: ServiceProcess, store: S3Store) -> None:
    assert store.stat(deployment_key("adapted"))
    stopped = service.undeploy("adapted")
    assert stopped.state == inference_pb2.DEPLOYMENT_STATE_STOPPED
    assert store.stat(deployment_key("adapted")) is None
    _wait_until(lambda: not service.engine_processes("--served-model-name base-"))
    assert service.names() == ["tiny"]


def test_an_engine_whose_processes_are_killed_comes_back_by_itself(service: ServiceProcess) -> None:
    family = service.engine_processes()
    commands = [(process, process.cmdline()) for process in family]
    victims = [p for p, words in commands if "VLLM::EngineCore" in words[0] or words[1:3] == ["-m", ENGINE_MODULE]]
    assert len(victims) == 2
    for process in victims:
        process.kill()
    recovering = service.wait("tiny", "RECOVERING")
    assert recovering.endpoint == ""
    assert recovering.failure.reason == "ENGINE_DIED"
    assert psutil.wait_procs(family, timeout=10)[1] == [], "the engine's other processes are ended too"
    ready = service.wait("tiny", "READY")
    assert ready.restarts == 1
    assert not ready.HasField("failure")
    assert chat(ready) >= 1


def test_a_hung_engine_is_killed_and_started_again(service: ServiceProcess) -> None:
    before = service.get("tiny").restarts
    for process in service.engine_processes("VLLM::EngineCore"):
        process.suspend()
    recovering = service.wait("tiny", "RECOVERING")
    assert "hung" in recovering.failure.message
    ready = service.wait("tiny", "READY")
    assert ready.restarts == before + 1
    assert chat(ready) >= 1


def test_a_killed_service_leaves_no_engine_and_restores_its_deployments_when_it_is_back(
    service: ServiceProcess, certificates: Certificates, trust: ssl.SSLContext
) -> None:
    processes = service.engine_processes()
    assert any("api_server" in " ".join(found.cmdline()) for found in processes)
    service.kill()
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert (len(gone), alive) == (len(processes), [])

    # It comes back on another configuration: mutual TLS for gRPC, https for engines.
    files = certificates
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes())
    names = {"CERT": files.cert, "KEY": files.key, "CA": files.ca}
    service.start(credentials, **{f"TUNEWRIGHT_TLS_{name}": str(path) for name, path in names.items()})
    ready = service.wait("tiny", "READY")
    assert ready.endpoint.startswith("https://")
    assert chat(ready, verify=trust) >= 1


def test_sigterm_lets_a_running_answer_end_before_the_engine_does(
    service: ServiceProcess, store: S3Store, trust: ssl.SSLContext
) -> None:
    processes = service.engine_processes()
    events = stream(service.get("tiny"), max_tokens=380, verify=trust)
    received = [next(events)]
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(service.terminate)
        received += list(events)
        assert ended.result() == 0
    assert time.monotonic() - began < 15, "it did not sit out its grace of 20 s"
    assert received[-1] == "[DONE]"
    assert json.loads(received[-2])["usage"]["completion_tokens"] == 380  # an event may hold more than one token
    assert psutil.wait_procs(processes, timeout=5)[1] == []
    assert store.stat(deployment_key("tiny")), "a drained service keeps what is wanted"


def _wait_until(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
