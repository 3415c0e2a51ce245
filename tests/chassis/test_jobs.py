"""The job runner: idempotent, durable, cancellable, and it survives what it must survive."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.chassis.conftest import MakeRunner
from tests.chassis.stages import COUNT, COUNT_PART, CountSpec
from tests.seaweed import S3Settings, seaweedfs
from tunewright.artifacts import ArtifactRef, Kind, Manifest, MemoryStore, Store, commit, fetch, seal
from tunewright.artifacts.transfer import load_manifest
from tunewright.chassis.errors import NotFound
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.journal import Event
from tunewright.chassis.records import ref_from_proto
from tunewright.chassis.settings import ServiceSettings
from tunewright.v1 import job_pb2


def finished(runner: JobRunner, job_id: str, after: int = 0) -> tuple[job_pb2.Job, list[Event]]:
    """Watch a job to its end."""
    events = [event for event in runner.watch(job_id, after) if event is not None]
    return runner.get(job_id), events


def numbers_of(store: Store, job: job_pb2.Job, folder: Path) -> list[int]:
    fetch(store, ArtifactRef(Kind.REPORT, job.result.id), folder)
    found: list[int] = json.loads((folder / "numbers.json").read_text())["numbers"]
    return found


def wait_until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def upload(store: Store, folder: Path, text: str) -> ArtifactRef:
    folder.mkdir()
    (folder / "word.txt").write_text(text)
    return commit(store, seal(Manifest(kind=Kind.UPLOAD, created_by="test"), folder, {}), folder)


def test_a_job_leaves_an_artifact_that_names_its_parents_and_measures(
    store: Store, make_runner: MakeRunner, tmp_path: Path
) -> None:
    word = upload(store, tmp_path / "in", "hello")
    runner = make_runner(store)
    job, events = finished(runner, runner.submit(COUNT, CountSpec(), {"upload_000": word}).job_id)

    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    manifest = fetch(store, ArtifactRef(Kind.REPORT, job.result.id), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "numbers.json").read_text()) == {"numbers": [1, 2, 3], "inputs": ["hello"]}
    assert manifest.parents == {"upload_000": str(word)}
    assert manifest.spec == CountSpec().canonical()
    assert manifest.metrics["stage_peak_rss_bytes"] > 10_000_000
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["state"] == "SUCCEEDED"


def test_of_an_input_only_the_files_that_the_stage_reads_are_downloaded(store: Store, tmp_path: Path) -> None:
    word = upload(store, tmp_path / "in", "hello")
    folder = tmp_path / "base"
    folder.mkdir()
    for name, text in (("a.txt", "small"), ("weights.bin", "gigabytes")):
        (folder / name).write_text(text)
    base = commit(store, seal(Manifest(kind=Kind.MODEL, created_by="test"), folder, {}), folder)
    settings = ServiceSettings(work_dir=tmp_path / "work", stop_grace_seconds=5)
    runner = JobRunner("counter", {"count": COUNT_PART}, store, settings)
    try:
        submitted = runner.submit(COUNT_PART, CountSpec(steps=1), {"upload_000": word, "base": base})
        job, _ = finished(runner, submitted.job_id)
    finally:
        runner.drain()
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.failure
    manifest = fetch(store, ArtifactRef(Kind.REPORT, job.result.id), tmp_path / "out")
    assert sorted(json.loads((tmp_path / "out" / "numbers.json").read_text())["inputs"]) == ["hello", "small"]
    assert manifest.parents == {"upload_000": str(word), "base": str(base)}
    cached = [path.name for path in (tmp_path / "work" / "cache").rglob("*") if path.is_file()]
    assert sorted(cached) == ["a.txt", "word.txt"]


def test_submitting_again_attaches_while_it_runs_and_finds_the_result_afterwards(
    store: Store, make_runner: MakeRunner
) -> None:
    runner, spec = make_runner(store), CountSpec(steps=10)
    first = runner.submit(COUNT, spec, {})
    second = runner.submit(COUNT, spec, {})
    assert second.job_id == first.job_id
    done, _ = finished(runner, first.job_id)
    again = runner.submit(COUNT, spec, {})
    assert (again.state, again.result.id, again.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, done.result.id, 1)


def test_watching_after_a_number_replays_exactly_the_rest(store: Store, make_runner: MakeRunner) -> None:
    runner = make_runner(store)
    job_id = runner.submit(COUNT, CountSpec(), {}).job_id
    _, every = finished(runner, job_id)
    _, rest = finished(runner, job_id, after=3)
    assert rest == every[3:]


def test_a_stage_that_is_killed_goes_on_from_its_checkpoint_to_the_same_artifact(
    store: Store, make_runner: MakeRunner, tmp_path: Path
) -> None:
    runner = make_runner(store)
    job_id = runner.submit(COUNT, CountSpec(steps=6, step_seconds=0.3, die_once_at=4), {}).job_id
    job, events = finished(runner, job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert numbers_of(store, job, tmp_path / "out") == [1, 2, 3, 4, 5, 6]
    assert job.attempt == 2
    remedies = [event["message"] for event in events if event["type"] == "remedy"]
    assert len(remedies) == 1
    assert "SIGKILL" in remedies[0]
    assert [event for event in events if event["type"] == "resume"]
    assert load_manifest(store, ref_from_proto(job.result)).metrics["found_kept"], "what the stage keeps is found again"
    assert not list((tmp_path / "work" / "jobs").iterdir()), "and removed once the job has ended"


def test_a_stage_that_always_dies_fails_after_three_tries_and_says_how(store: Store, make_runner: MakeRunner) -> None:
    runner = make_runner(store)
    job, _ = finished(runner, runner.submit(COUNT, CountSpec(always_die=True), {}).job_id)
    assert (job.state, job.attempt, job.failure.reason) == (job_pb2.JOB_STATE_FAILED, 3, "STAGE_DIED")
    assert "out of memory" in job.failure.message


def test_an_error_of_the_stage_reaches_the_caller_whole(store: Store, make_runner: MakeRunner) -> None:
    runner = make_runner(store)
    job, _ = finished(runner, runner.submit(COUNT, CountSpec(fail_at=2), {}).job_id)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert (job.failure.reason, job.failure.retryable) == ("INVALID_DATA", False)
    assert job.failure.message == "numbers.txt:7: not a number"
    assert job.failure.remedy == "Write a number."


def test_a_failed_job_starts_again_when_it_is_submitted_again(make_runner: MakeRunner) -> None:
    runner, spec = make_runner(MemoryStore()), CountSpec(fail_at=2)
    finished(runner, runner.submit(COUNT, spec, {}).job_id)
    job, events = finished(runner, runner.submit(COUNT, spec, {}).job_id)
    assert job.attempt == 2
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))


def test_cancel_ends_a_running_job_and_its_process(store: Store, make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make_runner(store)
    job_id = runner.submit(COUNT, CountSpec(steps=1000, step_seconds=0.05), {}).job_id
    wait_until(lambda: any(e and e["type"] == "progress" for e in _so_far(runner, job_id)))
    assert _stage_processes(tmp_path)
    runner.cancel(job_id, "changed my mind")
    job, events = finished(runner, job_id)
    assert (job.state, job.failure.message) == (job_pb2.JOB_STATE_CANCELLED, "changed my mind")
    assert not _stage_processes(tmp_path)
    assert events[-1]["state"] == "CANCELLED"


def test_a_stage_that_ignores_the_stop_is_killed_after_its_grace(make_runner: MakeRunner, tmp_path: Path) -> None:
    runner = make_runner(MemoryStore(), stop_grace_seconds=1)
    job_id = runner.submit(COUNT, CountSpec(steps=1000, step_seconds=0.05, ignore_stop=True), {}).job_id
    wait_until(lambda: any(e and e["type"] == "progress" for e in _so_far(runner, job_id)))
    assert _stage_processes(tmp_path)
    runner.cancel(job_id, "")
    job, _ = finished(runner, job_id)
    assert job.state == job_pb2.JOB_STATE_CANCELLED
    assert not _stage_processes(tmp_path)


def test_a_queued_job_can_be_cancelled_before_it_starts(make_runner: MakeRunner) -> None:
    runner = make_runner(MemoryStore())
    first = runner.submit(COUNT, CountSpec(steps=20), {}).job_id
    second = runner.submit(COUNT, CountSpec(steps=21), {}).job_id
    runner.cancel(second, "not needed")
    job, _ = finished(runner, second)
    assert (job.state, job.attempt) == (job_pb2.JOB_STATE_CANCELLED, 0)
    assert finished(runner, first)[0].state == job_pb2.JOB_STATE_SUCCEEDED


def test_an_input_that_does_not_exist_is_refused_at_once(store: Store, make_runner: MakeRunner) -> None:
    missing = ArtifactRef(Kind.DATASET, "0" * 64)
    with pytest.raises(NotFound, match=r"'dataset'.*datasets/0000"):
        make_runner(store).submit(COUNT, CountSpec(), {"dataset": missing})


def test_validating_starts_nothing(store: Store, make_runner: MakeRunner) -> None:
    runner = make_runner(store)
    job = runner.submit(COUNT, CountSpec(), {}, validate_only=True)
    assert job.state == job_pb2.JOB_STATE_UNSPECIFIED
    with pytest.raises(NotFound):
        runner.get(job.job_id)


def test_draining_saves_a_checkpoint_and_a_new_runner_goes_on(
    store: Store, make_runner: MakeRunner, tmp_path: Path
) -> None:
    spec = CountSpec(steps=12, step_seconds=0.25)
    first = make_runner(store)
    job_id = first.submit(COUNT, spec, {}).job_id
    wait_until(lambda: any(e and e["type"] == "checkpoint_saved" for e in _so_far(first, job_id)))
    first.drain()
    assert first.get(job_id).state == job_pb2.JOB_STATE_RUNNING

    second = make_runner(store)
    assert second.recover() == 1
    job, events = finished(second, job_id)
    assert (job.state, job.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 2)
    assert numbers_of(store, job, tmp_path / "out") == list(range(1, 13))
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))


def test_a_runner_killed_with_its_stage_leaves_no_orphan_and_the_next_one_makes_the_same_artifact(
    s3_store_settings: S3Settings, make_runner: MakeRunner, tmp_path: Path
) -> None:
    spec = {"steps": 8, "step_seconds": 0.3}
    s3_store = s3_store_settings.store("killed-runner")
    environment = os.environ | s3_store_settings.environment("killed-runner")
    command = [sys.executable, "-m", "tests.chassis.runner_process", str(tmp_path / "work")]
    with subprocess.Popen([*command, json.dumps(spec)], env=environment, stdout=subprocess.PIPE) as process:
        wait_until(lambda: any("/manifest.json" in info.key for info in s3_store.list("checkpoints/")))
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not _stage_processes(tmp_path), 5)

    again = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    ((_, state, result, attempt),) = json.loads(again.stdout)
    assert (state, attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 2)

    unharmed = make_runner(MemoryStore())
    expected, _ = finished(unharmed, unharmed.submit(COUNT, CountSpec(**spec), {}).job_id)  # type: ignore[arg-type]
    assert result == expected.result.id


def test_a_store_that_goes_down_and_comes_back_costs_nothing_but_time(make_runner: MakeRunner, tmp_path: Path) -> None:
    with seaweedfs() as server:
        store = server.settings.store("outage")
        runner = make_runner(store, store_patience_seconds=60)
        job_id = runner.submit(COUNT, CountSpec(steps=8, step_seconds=0.3), {}).job_id
        wait_until(lambda: any(e and e["type"] == "checkpoint_saved" for e in _so_far(runner, job_id)))
        server.kill()
        time.sleep(4)
        server.start()
        job, events = finished(runner, job_id)
        assert job.state == job_pb2.JOB_STATE_SUCCEEDED
        assert numbers_of(store, job, tmp_path / "out") == list(range(1, 9))
        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_fails_the_job_with_a_remedy_and_publishes_nothing(make_runner: MakeRunner, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=True)
    try:
        store = MemoryStore()
        runner = make_runner(store, work_dir=small)
        job, _ = finished(runner, runner.submit(COUNT, CountSpec(output_bytes=16 << 20), {}).job_id)
        assert (job.state, job.failure.reason) == (job_pb2.JOB_STATE_FAILED, "DISK_FULL")
        assert "TUNEWRIGHT_WORK_DIR" in job.failure.remedy
        assert not list(store.list("reports/"))
        runner.drain()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def _so_far(runner: JobRunner, job_id: str) -> list[Event]:
    """Return the events seen by now, without waiting for the end."""
    seen = []
    for event in runner.watch(job_id, 0):
        if event is None:
            break
        seen.append(event)
    return seen


def _stage_processes(folder: Path) -> list[psutil.Process]:
    """Return the stages' processes that work below a folder: other tests' and other stacks' are not looked at."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "tunewright.chassis.child" in command and Path(command[-1]).is_relative_to(folder):
            found.append(process)
    return found
