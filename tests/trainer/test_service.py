"""The trainer behind its RPC: the job trains in a child process, and what cannot work is refused before it starts."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import grpc
import pytest

from tests.trainer.conftest import TINY_MODEL, letters, write_dataset
from tunewright.artifacts import ArtifactRef, Kind, Manifest, MemoryStore, seal
from tunewright.artifacts.transfer import commit, load_manifest
from tunewright.chassis.errors import InvalidSpec, NotFound
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.records import ref_from_proto, ref_to_proto
from tunewright.chassis.settings import ServiceSettings
from tunewright.trainer.service import STAGES, TrainingService, register
from tunewright.trainer.spec import TrainingSpec
from tunewright.v1 import artifact_pb2, doctor_pb2, doctor_pb2_grpc, job_pb2, training_pb2


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def jobs(store: MemoryStore, tmp_path: Path) -> Iterator[JobRunner]:
    runner = JobRunner("trainer", STAGES, store, ServiceSettings(work_dir=tmp_path / "work"))
    yield runner
    runner.drain()


@pytest.fixture
def dataset(store: MemoryStore, tmp_path: Path) -> ArtifactRef:
    folder = write_dataset(tmp_path / "dataset", letters(8), letters(4))
    return commit(store, seal(Manifest(kind=Kind.DATASET, created_by="dataprep"), folder, {}), folder)


@pytest.fixture
def base(store: MemoryStore, tmp_path: Path) -> ArtifactRef:
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "model"))
    draft = Manifest(kind=Kind.MODEL, created_by="merger", base_model="org/tiny", base_revision="r1")
    return commit(store, seal(draft, folder, {}), folder)


def submit(jobs: JobRunner, dataset: ArtifactRef, base: ArtifactRef, **request: object) -> job_pb2.Job:
    message = training_pb2.SubmitTrainingRequest(
        dataset=ref_to_proto(dataset),
        base=ref_to_proto(base),
        **request,  # type: ignore[arg-type] # proto fields
    )
    return TrainingService(jobs).SubmitTraining(message, None).job  # type: ignore[arg-type] # the context is not used


def finished(jobs: JobRunner, job: job_pb2.Job) -> job_pb2.Job:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = jobs.get(job.job_id)
        if found.state not in {job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING}:
            return found
        time.sleep(0.1)
    raise TimeoutError(job.job_id)


def test_a_dataset_of_another_kind_is_refused_before_anything_is_loaded(
    jobs: JobRunner, store: MemoryStore, base: ArtifactRef, tmp_path: Path
) -> None:
    folder = write_dataset(tmp_path / "texts", [{"text": "A river."}])
    draft = Manifest(kind=Kind.DATASET, created_by="dataprep", metrics={"row_kind": "text"})
    texts = commit(store, seal(draft, folder, {}), folder)
    for objective in ("sft", "dpo"):
        with pytest.raises(InvalidSpec) as refusal:
            submit(jobs, texts, base, spec=training_pb2.TrainingSpec(objective=objective))
        assert refusal.value.message == (
            f"objective: {texts.short} holds documents, which objective cpt reads, not {objective}"
        )
        assert refusal.value.remedy == "Set training.objective to cpt, or prepare data of another kind."
    assert not jobs.jobs(10)
    spec = training_pb2.TrainingSpec(objective="cpt")
    assert submit(jobs, texts, base, spec=spec, validate_only=True).job_id


def test_a_job_ends_in_an_adapter_with_its_lineage(
    jobs: JobRunner, store: MemoryStore, dataset: ArtifactRef, base: ArtifactRef
) -> None:
    spec = training_pb2.TrainingSpec(max_steps=2, learning_rate=1e-3)
    job = finished(jobs, submit(jobs, dataset, base, spec=spec))
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.failure
    manifest = load_manifest(store, ref_from_proto(job.result))
    assert manifest.kind is Kind.ADAPTER
    assert manifest.parents == {"dataset": str(dataset), "base": str(base)}
    assert (manifest.base_model, manifest.base_revision) == ("org/tiny", "r1")
    assert {"torch", "transformers", "peft", "trl", "bitsandbytes"} <= manifest.packages.keys()
    assert submit(jobs, dataset, base, spec=spec).result == job.result


def test_an_adapter_to_go_on_from_must_be_one_of_this_base_and_shape(
    jobs: JobRunner, store: MemoryStore, dataset: ArtifactRef, base: ArtifactRef, tmp_path: Path
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")

    def adapter(on: ArtifactRef, **spec: object) -> artifact_pb2.ArtifactRef:
        draft = Manifest(kind=Kind.ADAPTER, created_by="trainer", spec={**TrainingSpec().canonical(), **spec})
        sealed = seal(draft, tmp_path / "adapter", {"base": on})
        return ref_to_proto(commit(store, sealed, tmp_path / "adapter"))

    other = ArtifactRef(Kind.MODEL, "5" * 64)
    with pytest.raises(InvalidSpec, match=r"adapter: adapters/\w+ was trained on models/5+, not on models/"):
        submit(jobs, dataset, base, adapter=adapter(other))
    with pytest.raises(InvalidSpec, match=r"lora_r: the adapter to go on from has 8, this is 16"):
        submit(jobs, dataset, base, adapter=adapter(base, lora_r=8))
    with pytest.raises(NotFound, match="input 'adapter'"):
        submit(jobs, dataset, base, adapter=ref_to_proto(ArtifactRef(Kind.ADAPTER, "0" * 64)))
    alone = submit(jobs, dataset, base, validate_only=True)
    assert submit(jobs, dataset, base, adapter=adapter(base), validate_only=True).job_id != alone.job_id
    assert not jobs.jobs(1)


def test_references_of_the_wrong_kind_are_refused(jobs: JobRunner, dataset: ArtifactRef, base: ArtifactRef) -> None:
    with pytest.raises(InvalidSpec, match=r"base: expected a reference to models/…, found datasets/"):
        submit(jobs, dataset, dataset)
    with pytest.raises(InvalidSpec, match=r"dataset: expected a reference to datasets/…, found models/"):
        submit(jobs, base, base)


def test_a_wrong_setting_is_refused_before_anything_starts(
    jobs: JobRunner, dataset: ArtifactRef, base: ArtifactRef
) -> None:
    with pytest.raises(InvalidSpec, match="learning_rate"):
        submit(jobs, dataset, base, spec=training_pb2.TrainingSpec(learning_rate=7))
    assert not jobs.jobs(1)


def test_how_many_processes_share_a_run_and_where_is_no_part_of_what_it_is(
    jobs: JobRunner, dataset: ArtifactRef, base: ArtifactRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = submit(jobs, dataset, base, validate_only=True)
    several = training_pb2.TrainingSpec(processes=4, max_restarts=0, fsdp="full_shard")
    assert submit(jobs, dataset, base, validate_only=True, spec=several).job_id == plain.job_id
    given: dict[str, object] = {}
    monkeypatch.setattr(JobRunner, "submit", lambda *_, **named: given.update(named) or job_pb2.Job())
    submit(jobs, dataset, base, spec=several)
    assert given["runtime"] == {"launcher": "local", "processes": 4, "fsdp": "full_shard", "max_restarts": 0}


def test_a_ray_cluster_that_the_service_was_not_told_of_is_refused(
    jobs: JobRunner, dataset: ArtifactRef, base: ArtifactRef
) -> None:
    with pytest.raises(InvalidSpec, match="launcher: `ray` needs a Ray cluster; this service was told of no cluster"):
        submit(jobs, dataset, base, spec=training_pb2.TrainingSpec(launcher="ray"))
    assert not jobs.jobs(1)


def test_validation_only_starts_nothing_and_finds_what_is_missing(
    jobs: JobRunner, dataset: ArtifactRef, base: ArtifactRef
) -> None:
    assert submit(jobs, dataset, base, validate_only=True).job_id
    assert not jobs.jobs(1)
    with pytest.raises(NotFound, match="input 'base'"):
        submit(jobs, dataset, ArtifactRef(Kind.MODEL, "0" * 64), validate_only=True)


def test_the_doctor_tells_what_the_command_line_tells_of_the_machine(jobs: JobRunner, tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    names = register(server, jobs, ServiceSettings(work_dir=tmp_path / "work"))
    assert names == ["tunewright.v1.TrainingService", "tunewright.v1.DoctorService"]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = doctor_pb2_grpc.DoctorServiceStub(channel).Examine(doctor_pb2.ExamineRequest(), timeout=120)
    server.stop(None)
    found = {finding.check: finding for finding in answer.findings}
    assert {"Python", "CPU", "RAM", "Disk", "bf16", "torch", "peft", "object store"} <= found.keys()
    assert found["peft"].found == metadata.version("peft")
    assert found["peft"].verdict == doctor_pb2.VERDICT_OK
    assert found["Python"].section == "machine"
    assert str(tmp_path / "work") in found["Disk"].found
    assert answer.fit == all(finding.verdict != doctor_pb2.VERDICT_FAILURE for finding in answer.findings)
    lines = answer.text.splitlines()
    assert lines[-1] == ("Fit." if answer.fit else "Not fit.")
    assert f"ok  peft  {metadata.version('peft')}  supported {found['peft'].supported}" in lines


def test_the_server_side_never_imports_torch() -> None:
    code = "import sys, tunewright.trainer.service; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
