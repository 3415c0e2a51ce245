"""A real inference service as a process, and how tests talk to it and to its engines."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil

from tunewright.artifacts import ArtifactRef
from tunewright.chassis.records import ref_to_proto
from tunewright.chassis.rpc_status import from_rpc_error
from tunewright.v1 import inference_pb2, inference_pb2_grpc

KEY = "key-of-the-engines-in-tests"
SPEC = {"max_model_len": 384, "max_num_seqs": 4, "kv_cache_bytes": 32 << 20}
_START_SECONDS = 40.0
_ENGINE_SECONDS = 300.0
"""An engine starts in 25 s on two idle cores; 225 s were seen with ten others at work."""


class ServiceProcess:
    """One service; `start` again after `kill` stands for a crash and a restart on the same machine."""

    def __init__(self, folder: Path, store: dict[str, str]) -> None:
        self.folder = folder
        self._environment = {
            **store,
            "TUNEWRIGHT_LISTEN": "127.0.0.1:0",
            "TUNEWRIGHT_METRICS_LISTEN": "127.0.0.1:0",
            "TUNEWRIGHT_WORK_DIR": str(folder / "work"),
            "TUNEWRIGHT_READY_FILE": str(folder / "ready.json"),
            "TUNEWRIGHT_LOG_FORMAT": "text",
            "TUNEWRIGHT_STOP_GRACE_SECONDS": "20",
            "TUNEWRIGHT_ENGINE_KEY": KEY,
            "TUNEWRIGHT_ENGINE_HEALTH_INTERVAL_SECONDS": "0.3",
            "TUNEWRIGHT_ENGINE_PROBE_INTERVAL_SECONDS": "2",
            "TUNEWRIGHT_ENGINE_HANG_SECONDS": "6",
            "TUNEWRIGHT_ENGINE_BACKOFF_SECONDS": "0.2",
            "TUNEWRIGHT_ENGINE_IDLE_SECONDS": "0.5",
            "TUNEWRIGHT_ADAPTER_UNLOAD_SECONDS": "2",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None
        self.addresses: dict[str, Any] = {}

    def start(self, credentials: grpc.ChannelCredentials | None = None, **environment: str) -> None:
        """Start it and return once it serves."""
        (self.folder / "ready.json").unlink(missing_ok=True)
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tunewright.inference"],
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment, **environment},
            )
        deadline = time.monotonic() + _START_SECONDS
        while not (self.folder / "ready.json").exists():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        self.addresses = json.loads((self.folder / "ready.json").read_text())
        address = self.addresses["grpc"]
        self._channel = (
            grpc.secure_channel(address, credentials) if credentials is not None else grpc.insecure_channel(address)
        )

    @property
    def stub(self) -> inference_pb2_grpc.InferenceServiceStub:
        assert self._channel is not None
        return inference_pb2_grpc.InferenceServiceStub(self._channel)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def deploy(self, name: str, model: ArtifactRef, adapter: ArtifactRef | None = None, **spec: Any) -> Any:  # noqa: ANN401 - proto
        request = inference_pb2.DeployRequest(
            name=name,
            spec=inference_pb2.DeploymentSpec(**(SPEC | spec)),
            model=ref_to_proto(model),
            adapter=ref_to_proto(adapter) if adapter else None,
        )
        try:
            return self.stub.Deploy(request, timeout=20).deployment
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def get(self, name: str) -> inference_pb2.Deployment:
        try:
            return self.stub.GetDeployment(inference_pb2.GetDeploymentRequest(name=name), timeout=20).deployment
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def names(self) -> list[str]:
        listed = self.stub.ListDeployments(inference_pb2.ListDeploymentsRequest(), timeout=20).deployments
        return [deployment.name for deployment in listed]

    def undeploy(self, name: str) -> inference_pb2.Deployment:
        return self.stub.Undeploy(inference_pb2.UndeployRequest(name=name), timeout=20).deployment

    def wait(self, name: str, *states: str) -> inference_pb2.Deployment:
        """Return the deployment once it is in one of these states; fail at once if it is FAILED and should not be."""
        deadline = time.monotonic() + _ENGINE_SECONDS
        while True:
            found = self.get(name)
            state = inference_pb2.DeploymentState.Name(found.state).removeprefix("DEPLOYMENT_STATE_")
            if state in states:
                return found
            assert state != "FAILED", f"{found}\n{self.log()}"
            assert time.monotonic() < deadline, f"{found}\n{self.log()}"
            time.sleep(0.1)

    def engine_processes(self, word: str = "") -> list[psutil.Process]:
        """Return living processes below this service whose command line holds `word`; one that ended has none."""
        below = psutil.Process(self.pid).children(recursive=True)
        return [found for found in below if (command := _command(found)) and word in command]

    def metrics(self) -> str:
        return httpx.get(f"http://{self.addresses['metrics']}/metrics", timeout=20).text

    def log(self) -> str:
        return (self.folder / "service.log").read_text()[-6000:]

    def terminate(self) -> int:
        """Ask it to end; return its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def engine_client(deployment: inference_pb2.Deployment, key: str = KEY, **options: Any) -> httpx.Client:  # noqa: ANN401
    """Return a client of a deployment's endpoint."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=deployment.endpoint, headers=headers, timeout=60, **options)


def chat(deployment: inference_pb2.Deployment, **options: Any) -> int:  # noqa: ANN401
    """Ask a short question; return how many tokens the answer has."""
    body = {"model": deployment.served_model_name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    with engine_client(deployment, **options) as client:
        answer = client.post("/chat/completions", json=body)
    assert answer.status_code == httpx.codes.OK, answer.text
    return int(answer.json()["usage"]["completion_tokens"])


def stream(deployment: inference_pb2.Deployment, max_tokens: int, **options: Any) -> Iterator[str]:  # noqa: ANN401
    """Yield the events of a streamed answer of exactly `max_tokens` tokens; the last but one has the usage."""
    body = {
        "model": deployment.served_model_name,
        "prompt": [84, 82],
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
    }
    body["stream_options"] = {"include_usage": True}
    with engine_client(deployment, **options) as client, client.stream("POST", "/completions", json=body) as answer:
        assert answer.status_code == httpx.codes.OK
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield line.removeprefix("data: ")


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
