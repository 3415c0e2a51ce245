"""The service on the wire: a real server, a real job in a child process, a real dataset in the store."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.dataprep.preparation import pair, to_jsonl
from tunewright.artifacts import ArtifactRef, Kind, Manifest, MemoryStore, seal
from tunewright.artifacts.transfer import commit, load_manifest
from tunewright.chassis.errors import InvalidSpec
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.records import ref_from_proto
from tunewright.chassis.rpc_status import from_rpc_error
from tunewright.chassis.server import ServiceServer
from tunewright.chassis.settings import ServiceSettings
from tunewright.chassis.spec import Spec, nested
from tunewright.dataprep.service import STAGES, register
from tunewright.dataprep.spec import DataprepSpec, Split
from tunewright.v1 import artifact_pb2, dataprep_pb2, dataprep_pb2_grpc, job_pb2

STORE = MemoryStore()
TINY = Path(__file__).parents[1] / "fixtures" / "tiny_model"


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def runner(work_dir: Path) -> Iterator[JobRunner]:
    settings = ServiceSettings(work_dir=work_dir, stop_grace_seconds=5)
    found = JobRunner("dataprep", STAGES, STORE, settings)
    yield found
    found.drain()


@pytest.fixture(scope="module")
def stub(runner: JobRunner) -> Iterator[dataprep_pb2_grpc.DataprepServiceStub]:
    server = ServiceServer("dataprep", runner, ServiceSettings(listen="127.0.0.1:0"), register)
    try:
        with grpc.insecure_channel(server.start()) as channel:
            yield dataprep_pb2_grpc.DataprepServiceStub(channel)
    finally:
        server.stop()


def upload(folder: Path, content: bytes) -> artifact_pb2.ArtifactRef:
    folder.mkdir()
    (folder / "raw.jsonl").write_bytes(content)
    sealed = seal(Manifest(kind=Kind.UPLOAD, created_by="gateway"), folder, {})
    return to_proto(commit(STORE, sealed, folder, None))


def to_proto(ref: ArtifactRef) -> artifact_pb2.ArtifactRef:
    kinds = {Kind.UPLOAD: artifact_pb2.ARTIFACT_KIND_UPLOAD, Kind.MODEL: artifact_pb2.ARTIFACT_KIND_MODEL}
    return artifact_pb2.ArtifactRef(kind=kinds[ref.kind], id=ref.id)


def finished(runner: JobRunner, job: job_pb2.Job) -> job_pb2.Job:
    deadline = time.monotonic() + 60
    while (found := runner.get(job.job_id)).state in {job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def refusal(stub: dataprep_pb2_grpc.DataprepServiceStub, request: dataprep_pb2.SubmitDataprepRequest) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        stub.SubmitDataprep(request)
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidSpec)
    return error.message


def test_uploads_become_a_dataset_with_its_lineage(
    stub: dataprep_pb2_grpc.DataprepServiceStub, runner: JobRunner, tmp_path: Path
) -> None:
    rows = [pair(f"question {number}", f"answer {number}") for number in range(40)]
    uploads = [upload(tmp_path / str(half), to_jsonl(rows[half::2])) for half in range(2)]
    spec = dataprep_pb2.DataprepSpec(seed=3, split={"validation_fraction": 0.25})
    request = dataprep_pb2.SubmitDataprepRequest(spec=spec, uploads=uploads)
    job = finished(runner, stub.SubmitDataprep(request).job)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.failure
    manifest = load_manifest(STORE, ref_from_proto(job.result))
    assert manifest.kind is Kind.DATASET
    assert manifest.spec == DataprepSpec(seed=3, split=Split(validation_fraction=0.25)).canonical()
    assert sorted(manifest.parents) == ["upload_000", "upload_001"]
    assert manifest.metrics["rows_out"] == 40
    assert stub.SubmitDataprep(request).job.result == job.result


def test_the_base_is_a_parent_where_the_dataset_depends_on_it_and_its_weights_stay_where_they_are(
    stub: dataprep_pb2_grpc.DataprepServiceStub, runner: JobRunner, work_dir: Path, tmp_path: Path
) -> None:
    sealed = seal(Manifest(kind=Kind.MODEL, created_by="merger", base_model="tiny"), TINY, {})
    base = commit(STORE, sealed, TINY, None)
    raw = upload(tmp_path / "raw", to_jsonl([pair(f"question {n}", f"answer {n}") for n in range(20)]))
    plain = dataprep_pb2.SubmitDataprepRequest(uploads=[raw])
    counted = dataprep_pb2.SubmitDataprepRequest(uploads=[raw], base=to_proto(base))
    off = dataprep_pb2.SubmitDataprepRequest(
        uploads=[raw], base=to_proto(base), spec=dataprep_pb2.DataprepSpec(audit={"template": False})
    )
    jobs = [finished(runner, stub.SubmitDataprep(request).job) for request in (plain, counted, off)]
    assert [job.state for job in jobs] == [job_pb2.JOB_STATE_SUCCEEDED] * 3, [job.failure for job in jobs]
    parents = [load_manifest(STORE, ref_from_proto(job.result)).parents for job in jobs]
    assert [found.get("base") for found in parents] == [None, str(base), None]
    assert len({job.result.id for job in jobs}) == 3
    (copy,) = work_dir.rglob(base.id)
    names = {path.name for path in copy.iterdir()}
    assert {"tokenizer.json", "chat_template.jinja", "config.json"} <= names
    assert "model.safetensors" not in names


def test_tokens_are_not_judged_without_a_base_and_a_base_is_a_model(
    stub: dataprep_pb2_grpc.DataprepServiceStub, tmp_path: Path
) -> None:
    raw = upload(tmp_path / "raw", to_jsonl([pair("q", "a")]))
    spec = dataprep_pb2.DataprepSpec(filters={"max_tokens": 9})
    assert "no base is given" in refusal(stub, dataprep_pb2.SubmitDataprepRequest(uploads=[raw], spec=spec))
    text = refusal(stub, dataprep_pb2.SubmitDataprepRequest(uploads=[raw], base=raw))
    assert text.startswith("base: expected a reference to models/…, found uploads/")


def test_wrong_data_fail_the_job_with_file_line_and_remedy(
    stub: dataprep_pb2_grpc.DataprepServiceStub, runner: JobRunner, tmp_path: Path
) -> None:
    request = dataprep_pb2.SubmitDataprepRequest(uploads=[upload(tmp_path / "csv", b"a,b\n1,2\n")])
    job = finished(runner, stub.SubmitDataprep(request).job)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.failure.reason == "INVALID_DATA"
    assert "raw.jsonl:1: invalid JSON at column 1" in job.failure.message
    assert job.failure.remedy.startswith("Objects are expected, with the fields instruction and output")
    assert not job.failure.retryable


def test_a_wrong_request_is_refused_by_the_field(stub: dataprep_pb2_grpc.DataprepServiceStub) -> None:
    assert "at least one raw file is needed" in refusal(stub, dataprep_pb2.SubmitDataprepRequest())
    model = to_proto(ArtifactRef(Kind.MODEL, "0" * 64))
    text = refusal(stub, dataprep_pb2.SubmitDataprepRequest(uploads=[model]))
    assert text.startswith("uploads[0]: expected a reference to uploads/…, found models/")
    spec = dataprep_pb2.DataprepSpec(split={"validation_fraction": 0.9}, format="table")
    text = refusal(stub, dataprep_pb2.SubmitDataprepRequest(spec=spec, uploads=[model]))
    assert "split.validation_fraction" in text
    assert "format" in text


def test_the_proto_has_the_fields_of_the_spec() -> None:
    assert _differences(dataprep_pb2.DataprepSpec.DESCRIPTOR, DataprepSpec) == set()


def _differences(descriptor: Any, spec: type[Spec]) -> set[str]:  # noqa: ANN401 - a descriptor of protobuf's C library
    """Return the fields that only one of the two has, sections in sections included."""
    found = {field.name for field in descriptor.fields} ^ set(spec.model_fields)
    for field in descriptor.fields:
        if field.name not in found and (inner := nested(spec.model_fields[field.name].annotation)):
            found |= {f"{field.name}.{name}" for name in _differences(field.message_type, inner)}
    return found


def test_a_launcher_that_cannot_work_here_is_refused_and_the_other_is_no_other_job(
    stub: dataprep_pb2_grpc.DataprepServiceStub, runner: JobRunner, tmp_path: Path
) -> None:
    uploads = [upload(tmp_path / "raw", to_jsonl([pair("question", "answer")]))]
    spec = dataprep_pb2.DataprepSpec(launcher="ray")
    text = refusal(stub, dataprep_pb2.SubmitDataprepRequest(spec=spec, uploads=uploads))
    assert text == "launcher: `ray` needs a Ray cluster; this service was told of no cluster"
    plain, two = (
        stub.SubmitDataprep(dataprep_pb2.SubmitDataprepRequest(spec=spec, uploads=uploads)).job
        for spec in (dataprep_pb2.DataprepSpec(), dataprep_pb2.DataprepSpec(launcher="local", workers=2))
    )
    assert plain.job_id == two.job_id
    assert finished(runner, plain).state == job_pb2.JOB_STATE_SUCCEEDED
