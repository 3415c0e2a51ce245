"""The merger behind its RPCs: jobs run in child processes, and what cannot work is refused before they start."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.merger.conftest import TINY, write_dataset
from tunewright.artifacts import ArtifactRef, Kind, Manifest, MemoryStore, seal
from tunewright.artifacts.transfer import commit, load_manifest
from tunewright.chassis.errors import InvalidSpec, NotFound, Refused, Unavailable
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.records import ref_from_proto, ref_to_proto
from tunewright.merger.service import STAGES, MergerSettings, MergingService
from tunewright.v1 import job_pb2, merging_pb2


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(TINY, tmp_path / "root" / "tiny")
    return tmp_path / "root"


@pytest.fixture
def service(store: MemoryStore, root: Path, tmp_path: Path) -> Iterator[MergingService]:
    runner = JobRunner("merger", STAGES, store, MergerSettings(work_dir=tmp_path / "work"))
    yield MergingService(runner, root)
    runner.drain()


@pytest.fixture
def finished(service: MergingService) -> Callable[[job_pb2.Job], job_pb2.Job]:
    """Return a function that waits for a job's end."""

    def wait(job: job_pb2.Job) -> job_pb2.Job:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = service._jobs.get(job.job_id)
            if found.state not in {job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING}:
                return found
            time.sleep(0.1)
        raise TimeoutError(job.job_id)

    return wait


def submit_import(service: MergingService, source: str, **request: Any) -> job_pb2.Job:  # noqa: ANN401 - proto fields
    message = merging_pb2.SubmitImportRequest(spec=merging_pb2.ImportSpec(source=source), **request)
    return service.SubmitImport(message, None).job  # type: ignore[arg-type] # the servicer does not use its context


def submit_merge(service: MergingService, **refs: ArtifactRef) -> job_pb2.Job:
    message = merging_pb2.SubmitMergeRequest(
        spec=merging_pb2.MergeSpec(probe_count=2),
        adapter=ref_to_proto(refs["adapter"]),
        base=ref_to_proto(refs["base"]),
        dataset=ref_to_proto(refs["dataset"]),
    )
    return service.SubmitMerge(message, None).job  # type: ignore[arg-type] # likewise


def test_import_and_merge_end_in_models_with_their_lineage(
    service: MergingService, finished: Callable[..., Any], store: MemoryStore, adapter: Path, tmp_path: Path
) -> None:
    imported = finished(submit_import(service, "tiny"))
    assert imported.state == job_pb2.JOB_STATE_SUCCEEDED, imported.failure
    base = ref_from_proto(imported.result)
    assert load_manifest(store, base).base_model == "tiny"
    draft = Manifest(kind=Kind.ADAPTER, created_by="trainer", spec={"lora_r": 4, "lora_alpha": 8.0})
    adapter_ref = commit(store, seal(draft, adapter, {"base": base}), adapter)
    folder = write_dataset(tmp_path / "dataset", 3)
    dataset = commit(store, seal(Manifest(kind=Kind.DATASET, created_by="dataprep"), folder, {}), folder)
    merged = finished(submit_merge(service, adapter=adapter_ref, base=base, dataset=dataset))
    assert merged.state == job_pb2.JOB_STATE_SUCCEEDED, merged.failure
    manifest = load_manifest(store, ref_from_proto(merged.result))
    assert manifest.parents == {"adapter": str(adapter_ref), "base": str(base), "dataset": str(dataset)}
    assert manifest.base_model == "tiny"
    assert manifest.metrics["merge_max_kl"] < 1e-3

    request = merging_pb2.SubmitExportRequest(
        spec=merging_pb2.ExportSpec(format="gguf", probe_count=2), model=merged.result, dataset=ref_to_proto(dataset)
    )
    exported = finished(service.SubmitExport(request, None).job)  # type: ignore[arg-type] # likewise
    assert exported.state == job_pb2.JOB_STATE_SUCCEEDED, exported.failure
    found = load_manifest(store, ref_from_proto(exported.result))
    assert "model.gguf" in {entry.path for entry in found.files}
    assert (found.base_model, found.parents["model"]) == ("tiny", str(ref_from_proto(merged.result)))

    other = commit(store, seal(draft, adapter, {"base": ArtifactRef(Kind.MODEL, "0" * 64)}), adapter)
    with pytest.raises(Refused, match="wrong base: the adapter was trained on models/0000"):
        submit_merge(service, adapter=other, base=base, dataset=dataset)
    with pytest.raises(InvalidSpec, match="base names one of adapters"):
        submit_merge(service, adapter=adapter_ref, base=adapter_ref, dataset=dataset)


def test_the_same_folder_is_the_same_job_and_a_changed_one_another(
    service: MergingService, finished: Callable[..., Any], root: Path
) -> None:
    first = finished(submit_import(service, "tiny"))
    again = submit_import(service, "tiny")
    assert (again.job_id, again.state) == (first.job_id, job_pb2.JOB_STATE_SUCCEEDED)
    path = root / "tiny" / "generation_config.json"
    path.write_text(path.read_text("utf-8") + "\n", "utf-8")
    assert submit_import(service, "tiny", validate_only=True).job_id != first.job_id


def test_validation_alone_finds_what_is_wrong_and_starts_nothing(
    service: MergingService, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    (root / "tiny" / "chat_template.jinja").unlink()
    with pytest.raises(Refused, match="no chat template"):
        submit_import(service, "tiny", validate_only=True)
    with pytest.raises(NotFound, match="no folder"):
        submit_import(service, "a/b/c", validate_only=True)
    assert service._jobs.jobs(10) == []


def test_where_the_hub_has_no_such_model_the_nearest_folder_is_named(
    service: MergingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"does not answer for 'tinny'.*import root: .*did you mean 'tiny'\?"):
        submit_import(service, "tinny", validate_only=True)


def test_the_server_process_never_imports_torch() -> None:
    code = "import sys, tunewright.merger.service; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
