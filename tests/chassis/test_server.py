"""The gRPC server: rich errors, jobs on the wire, health, reflection, TLS, metrics."""

import subprocess
import sys
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field, SecretStr

from tests.chassis.certificates import make_certificates
from tests.chassis.conftest import MakeRunner
from tests.chassis.stages import COUNT, CountSpec
from tunewright.artifacts import MemoryStore
from tunewright.chassis import metrics
from tunewright.chassis.errors import InvalidSpec, NotFound, StoreDown, TunewrightError, Unavailable, Violation
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.rpc_status import from_rpc_error
from tunewright.chassis.server import ServiceServer
from tunewright.chassis.settings import ServiceSettings, read_settings
from tunewright.v1 import dataprep_pb2, dataprep_pb2_grpc, job_pb2, job_pb2_grpc

ERRORS: dict[str, Exception] = {
    "spec": InvalidSpec("two fields are wrong", violations=[Violation("a", "too big"), Violation("b.c", "missing")]),
    "store": StoreDown("no answer"),
    "fault": ZeroDivisionError("division by zero"),
}


class Servicer(dataprep_pb2_grpc.DataprepServiceServicer):
    """A real servicer: submits the counting stage, or raises what the spec's `format` names."""

    def __init__(self, jobs: JobRunner) -> None:
        self._jobs = jobs

    def SubmitDataprep(  # noqa: N802
        self,
        request: dataprep_pb2.SubmitDataprepRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> dataprep_pb2.SubmitDataprepResponse:
        if request.spec.format in ERRORS:
            raise ERRORS[request.spec.format]
        job = self._jobs.submit(COUNT, CountSpec(steps=request.spec.seed or 3), {})
        return dataprep_pb2.SubmitDataprepResponse(job=job)


def register(server: grpc.Server, jobs: JobRunner, _settings: Any) -> list[str]:  # noqa: ANN401
    dataprep_pb2_grpc.add_DataprepServiceServicer_to_server(Servicer(jobs), server)
    return ["tunewright.v1.DataprepService"]


@contextmanager
def serving(jobs: JobRunner, **settings: Any) -> Iterator[tuple[ServiceServer, str]]:  # noqa: ANN401
    server = ServiceServer("counter", jobs, ServiceSettings(listen="127.0.0.1:0", **settings), register)
    try:
        yield server, server.start()
    finally:
        server.stop()


@pytest.fixture
def address(make_runner: MakeRunner) -> Iterator[str]:
    with serving(make_runner(MemoryStore())) as (_, address):
        yield address


def submit(channel: grpc.Channel, **spec: Any) -> job_pb2.Job:  # noqa: ANN401
    request = dataprep_pb2.SubmitDataprepRequest(spec=dataprep_pb2.DataprepSpec(**spec))
    return dataprep_pb2_grpc.DataprepServiceStub(channel).SubmitDataprep(request, timeout=10).job


def test_a_job_is_submitted_watched_and_read_over_the_wire(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        job = submit(channel, seed=4)
        request = job_pb2.WatchJobRequest(job_id=job.job_id)
        events = [response.event for response in jobs.WatchJob(request, timeout=60)]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert events[-1].state == job_pb2.JOB_STATE_SUCCEEDED
        progress = [event for event in events if event.type == "progress"][-1]
        assert (progress.data["step"], progress.data["total"], progress.data["loss"]) == (4, 4, 0.25)
        done = jobs.GetJob(job_pb2.GetJobRequest(job_id=job.job_id)).job
        assert done.state == job_pb2.JOB_STATE_SUCCEEDED
        assert [found.job_id for found in jobs.ListJobs(job_pb2.ListJobsRequest()).jobs] == [job.job_id]


def test_a_wrong_field_arrives_as_bad_request_with_every_violation(address: str) -> None:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        submit(channel, format="spec")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidSpec)
    assert error.violations == (Violation("a", "too big"), Violation("b.c", "missing"))


def test_an_error_worth_a_retry_says_so(address: str) -> None:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        submit(channel, format="store")
    error = from_rpc_error(caught.value)
    assert isinstance(error, StoreDown)
    assert error.retryable


def test_a_fault_of_ours_is_internal_and_not_worth_a_retry(address: str) -> None:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        submit(channel, format="fault")
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert not from_rpc_error(caught.value).retryable


def test_an_unknown_job_is_not_found_also_in_a_stream(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        jobs = job_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(jobs.WatchJob(job_pb2.WatchJobRequest(job_id="nobody"), timeout=10))
        assert isinstance(from_rpc_error(caught.value), NotFound)


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with grpc.insecure_channel("127.0.0.1:9") as channel, pytest.raises(grpc.RpcError) as caught:
        submit(channel)
    assert isinstance(from_rpc_error(caught.value), Unavailable)


def test_reflection_and_health_answer_grpcurl(address: str) -> None:
    grpcurl = [str(Path(sys.executable).with_name("grpcurl")), "-plaintext"]
    listed = subprocess.run([*grpcurl, address, "list"], check=True, capture_output=True, text=True, timeout=30)
    assert {"tunewright.v1.DataprepService", "tunewright.v1.JobService"} <= set(listed.stdout.split())
    checked = subprocess.run(
        [*grpcurl, address, "grpc.health.v1.Health/Check"], check=True, capture_output=True, text=True, timeout=30
    )
    assert '"SERVING"' in checked.stdout


def test_with_certificates_a_stranger_gets_no_answer_and_a_service_does(
    make_runner: MakeRunner, tmp_path: Path
) -> None:
    ours, strange = (make_certificates(tmp_path / name) for name in ("ours", "strange"))
    files = {"tls_cert": ours.cert, "tls_key": ours.key, "tls_ca": ours.ca}
    with serving(make_runner(MemoryStore()), health_listen="127.0.0.1:0", **files) as (_, address):
        authority = ours.ca.read_bytes()
        good = grpc.ssl_channel_credentials(authority, ours.key.read_bytes(), ours.cert.read_bytes())
        with grpc.secure_channel(address, good) as channel:
            assert submit(channel).service == "counter"
        for bad in (
            grpc.ssl_channel_credentials(authority),
            grpc.ssl_channel_credentials(authority, strange.key.read_bytes(), strange.cert.read_bytes()),
        ):
            with grpc.secure_channel(address, bad) as channel, pytest.raises(grpc.RpcError) as caught:
                submit(channel)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_taken_port_is_said_with_a_way_out(make_runner: MakeRunner, address: str) -> None:
    server = ServiceServer("counter", make_runner(MemoryStore()), ServiceSettings(listen=address), register)
    with pytest.raises(TunewrightError, match=f"cannot listen on {address}") as caught:
        server.start()
    assert "TUNEWRIGHT_LISTEN" in caught.value.remedy


def test_health_turns_when_the_server_stops(make_runner: MakeRunner) -> None:
    with serving(make_runner(MemoryStore())) as (server, address), grpc.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="tunewright.v1.JobService")
        assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
        server._health.enter_graceful_shutdown()
        assert health.Check(request).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_the_metrics_page_counts_jobs_and_calls(address: str) -> None:
    port = metrics.serve("127.0.0.1:0")
    with grpc.insecure_channel(address) as channel:
        job = submit(channel)
        request = job_pb2.WatchJobRequest(job_id=job.job_id)
        assert list(job_pb2_grpc.JobServiceStub(channel).WatchJob(request, timeout=60))
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    assert 'tunewright_jobs_finished_total{service="counter",state="SUCCEEDED"}' in page
    assert 'tunewright_grpc_request_duration_seconds_count{code="OK",method="/tunewright.v1.DataprepService/Sub' in page
    assert 'tunewright_stage_figure{figure="loss",service="counter"}' in page


def test_a_malformed_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_MAX_CONCURRENT_JOBS", "many")
    with pytest.raises(InvalidSpec, match="TUNEWRIGHT_MAX_CONCURRENT_JOBS"):
        read_settings(ServiceSettings)


def test_half_a_tls_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_TLS_CERT", "/x.pem")
    with pytest.raises(InvalidSpec, match="TLS_CERT, TLS_KEY and TLS_CA together"):
        read_settings(ServiceSettings)


@pytest.mark.parametrize(
    ("variable", "value"), [("TUNEWRIGHT_TLS_CERT", "/x.pem"), ("TUNEWRIGHT_INFERENCE_ENGINE_KEY", "geheim")]
)
def test_no_secret_is_told_when_the_environment_is_wrong(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    class Strict(ServiceSettings):
        inference_engine_key: SecretStr = Field(default=SecretStr("sixteen letters!"), min_length=16)

    monkeypatch.setenv("TUNEWRIGHT_STORE_SECRET_KEY", "geheim")
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSpec) as caught:
        read_settings(Strict)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))
    assert variable.removeprefix("TUNEWRIGHT_") in caught.value.message


@pytest.mark.parametrize(
    ("variable", "value"), [("TUNEWRIGHT_STORE_ENDPOINT", "ftp://store"), ("TUNEWRIGHT_STORE_BUCKET", "No Bucket")]
)
def test_a_store_that_cannot_be_one_is_refused_by_its_variables(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSpec, match=variable):
        read_settings(ServiceSettings).open_store()


def test_a_secret_may_lie_in_a_file_and_a_variable_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tunewright_store_secret_key").write_text("from the file")
    monkeypatch.setenv("TUNEWRIGHT_SECRETS_DIR", str(tmp_path))
    assert read_settings(ServiceSettings).store_secret_key.get_secret_value() == "from the file"
    monkeypatch.setenv("TUNEWRIGHT_STORE_SECRET_KEY", "from the variable")
    assert read_settings(ServiceSettings).store_secret_key.get_secret_value() == "from the variable"
