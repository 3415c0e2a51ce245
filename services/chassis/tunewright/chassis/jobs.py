"""The job runner: submit (idempotent), watch, cancel; stages run in child processes; nothing is kept but in the store.

    submit ─ record QUEUED ─ queue ─ attempt: inputs → checkpoint → child process → commit ─ record SUCCEEDED
                                        └─ died, store down: again, bounded ─┘      └─ FAILED, CANCELLED

A service that was killed finds its unfinished jobs in the store (`recover`) and goes on from their newest checkpoints.
`attempt.py` runs one attempt. Knows nothing of gRPC.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tunewright.artifacts import ArtifactError, ArtifactRef, Store
from tunewright.artifacts.transfer import exists, load_manifest
from tunewright.chassis import journal, logs, metrics, records
from tunewright.chassis.attempt import Attempt, job_folder
from tunewright.chassis.errors import Cancelled, Interrupted, NotFound, StageDied, StoreDown, TunewrightError, foreign
from tunewright.chassis.inputs import InputCache
from tunewright.chassis.journal import Event, Journal
from tunewright.chassis.records import Failure, JobRecord, State
from tunewright.chassis.settings import ServiceSettings
from tunewright.chassis.spec import Spec, job_id
from tunewright.chassis.stage import Stage
from tunewright.v1 import job_pb2

_MAX_DEATHS = 3
"""Times a stage's process may die without a result before the job fails."""
_STORE_RETRY_SECONDS = 3.0

_log = logging.getLogger(__name__)


@dataclass
class LiveJob:
    """A job that is queued or runs in this process."""

    record: JobRecord
    journal: Journal
    cancelled: threading.Event = field(default_factory=threading.Event)
    cancel_why: str = ""
    attempt: Attempt | None = None


class JobRunner:
    """Runs the jobs of one service.

    Args:
        service: name of the service; part of every job's identity and key.
        stages: the stages it can run, by name.
        store: where everything lies.
        settings: work directory, concurrency, grace and patience.
    """

    def __init__(self, service: str, stages: Mapping[str, Stage], store: Store, settings: ServiceSettings) -> None:
        self.service = service
        self.store = store
        self._stages = dict(stages)
        self._names = {stage.spec: name for name, stage in stages.items()}
        self._settings = settings
        self._cache = InputCache(store, settings.work_dir / "cache")
        self._pool = ThreadPoolExecutor(settings.max_concurrent_jobs, thread_name_prefix="job")
        self._live: dict[str, LiveJob] = {}
        self._lock = threading.Lock()
        self._draining = threading.Event()
        self._at_drain: list[Callable[[], None]] = []

    def at_drain(self, action: Callable[[], None]) -> None:
        """Have `action` called when the service drains, for what a room runs beside its jobs."""
        self._at_drain.append(action)

    def submit(
        self,
        stage: Stage,
        spec: Spec,
        inputs: Mapping[str, ArtifactRef],
        *,
        references: Mapping[str, ArtifactRef] | None = None,
        runtime: Mapping[str, Any] | None = None,
        validate_only: bool = False,
    ) -> job_pb2.Job:
        """Start the job of this spec on these inputs, attach to it if it runs, or return it if it is finished.

        A job that failed or was cancelled is started again and goes on from its newest checkpoint.

        Args:
            stage: one of this service's stages.
            spec: what to do.
            inputs: name → artifact, downloaded for the stage.
            references: name → artifact that counts for the identity and lineage and is not downloaded.
            runtime: facts of this run that do not count for the identity, such as endpoint addresses.
            validate_only: check that the inputs exist, start nothing.

        Raises:
            NotFound: an input is not in the store.
            StoreDown: the store does not answer.
        """
        references = references or {}
        identifier = job_id(self.service, spec, {**inputs, **references})
        try:
            for name, ref in {**inputs, **references}.items():
                if not exists(self.store, ref):
                    raise NotFound(f"input {name!r}: the object store holds no artifact {ref}")
            if validate_only:
                return job_pb2.Job(job_id=identifier, service=self.service)
            fresh = JobRecord(
                job_id=identifier,
                service=self.service,
                stage=self._names[stage.spec],
                spec=spec.canonical(),
                inputs={name: str(ref) for name, ref in inputs.items()},
                references={name: str(ref) for name, ref in references.items()},
                runtime=dict(runtime or {}),
            )
            return self._attach_or_start(fresh)
        except ArtifactError as error:
            raise foreign(error) from error

    def get(self, identifier: str) -> job_pb2.Job:
        """Return a job.

        Raises:
            NotFound: this service has no such job.
        """
        live = self._live.get(identifier)
        if live is not None:
            return live.record.to_proto(live.journal.last_sequence)
        record = self._stored(identifier)
        events = journal.read(self.store, self.service, identifier)
        return record.to_proto(events[-1]["sequence"] if events else 0)

    def jobs(self, limit: int) -> list[job_pb2.Job]:
        """Return at most `limit` jobs, newest first."""
        return [record.to_proto() for record in records.load_all(self.store, self.service)[:limit]]

    def watch(self, identifier: str, after_sequence: int) -> Iterator[Event | None]:
        """Yield the events after a number until the job ends; None while nothing happens, so a caller can look away.

        Raises:
            NotFound: this service has no such job.
        """
        live = self._live.get(identifier)
        if live is not None:
            yield from live.journal.follow(after_sequence)
            return
        self._stored(identifier)
        yield from (e for e in journal.read(self.store, self.service, identifier) if e["sequence"] > after_sequence)

    def cancel(self, identifier: str, why: str) -> job_pb2.Job:
        """Ask a job to stop; it ends as CANCELLED within the grace period. A finished job is returned as it is."""
        live = self._live.get(identifier)
        if live is None:
            return self.get(identifier)
        live.cancel_why = why or "cancelled"
        live.cancelled.set()
        live.journal.append(live.record.state, "cancel", f"cancel requested: {live.cancel_why}")
        if live.attempt is not None:
            live.attempt.stop()
        return live.record.to_proto(live.journal.last_sequence)

    def recover(self) -> int:
        """Queue the jobs that were not finished when the service ended; return how many."""
        unfinished = [r for r in records.load_all(self.store, self.service) if not r.state.terminal]
        for record in sorted(unfinished, key=lambda r: r.create_time):
            _log.info("going on with an unfinished job", extra={"job_id": record.job_id})
            self._attach_or_start(record)
        return len(unfinished)

    def drain(self) -> None:
        """Stop taking jobs; running stages save a checkpoint and end; their jobs stay unfinished in the store."""
        self._draining.set()
        for live in list(self._live.values()):
            if live.attempt is not None:
                live.attempt.stop()
        for action in self._at_drain:
            action()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _stored(self, identifier: str) -> JobRecord:
        record = records.load(self.store, self.service, identifier)
        if record is None:
            raise NotFound(f"{self.service} has no job {identifier!r}")
        return record

    def _attach_or_start(self, fresh: JobRecord) -> job_pb2.Job:
        with self._lock:
            live = self._live.get(fresh.job_id)
            if live is not None:
                return live.record.to_proto(live.journal.last_sequence)
            known = records.load(self.store, self.service, fresh.job_id)
            if known is not None and known.state is State.SUCCEEDED and self._result_exists(known):
                return known.to_proto()
            attempt = known.attempt if known is not None else 0
            record = fresh.model_copy(update={"state": State.QUEUED, "attempt": attempt})
            record.save(self.store)
            live = LiveJob(record, Journal(self.store, self.service, fresh.job_id))
            live.journal.append(State.QUEUED, "state", "queued")
            self._live[fresh.job_id] = live
            metrics.JOBS.labels(self.service, State.QUEUED.value).inc()
            self._pool.submit(self._run, live)
            return record.to_proto(live.journal.last_sequence)

    def _result_exists(self, record: JobRecord) -> bool:
        return record.result is not None and exists(self.store, ArtifactRef.parse(record.result))

    def _run(self, live: LiveJob) -> None:
        identifier = live.record.job_id
        with logs.job_context(identifier):
            metrics.JOBS.labels(self.service, State.QUEUED.value).dec()
            try:
                self._run_to_its_end(live)
            except Exception:  # noqa: BLE001 - a worker thread's border; the job stays unfinished in the store
                _log.exception("the job could not be brought to an end; it goes on after a restart")
            live.journal.close(self._settings.stop_grace_seconds)
            with self._lock:
                del self._live[identifier]

    def _run_to_its_end(self, live: LiveJob) -> None:
        try:
            ref = self._attempts(live)
        except Interrupted:
            if not self._draining.is_set():
                raise
            live.journal.append(live.record.state, "drain", "the service shuts down; the job goes on after its restart")
        except Cancelled as error:
            self._finish(live, State.CANCELLED, failure=Failure.of(error))
        except TunewrightError as error:
            _log.error("job failed: %s", error.message, extra={"reason": error.reason})
            self._finish(live, State.FAILED, failure=Failure.of(error))
        else:
            self._finish(live, State.SUCCEEDED, result=str(ref))

    def _attempts(self, live: LiveJob) -> ArtifactRef:
        """Run attempts until one succeeds, bounded by deaths of the process and by patience with the store."""
        deaths, store_deadline = 0, None
        while True:
            try:
                return self._one_attempt(live)
            except StageDied as error:
                deaths += 1
                if deaths >= _MAX_DEATHS:
                    raise
                metrics.STAGE_RESTARTS.labels(self.service).inc()
                live.journal.append(
                    State.RUNNING,
                    "remedy",
                    f"{error.message} Starting again from the newest checkpoint ({deaths} of {_MAX_DEATHS - 1}).",
                    "warning",
                    reason=error.reason,
                )
            except StoreDown as error:
                store_deadline = store_deadline or time.monotonic() + self._settings.store_patience_seconds
                if time.monotonic() > store_deadline or self._draining.is_set():
                    raise
                live.journal.append(State.RUNNING, "remedy", f"{error.message}; trying again", "warning")
                time.sleep(_STORE_RETRY_SECONDS)

    def _one_attempt(self, live: LiveJob) -> ArtifactRef:
        if live.cancelled.is_set():
            raise Cancelled(live.cancel_why)
        if self._draining.is_set():
            raise Interrupted("the service shuts down")
        update = {"state": State.RUNNING, "attempt": live.record.attempt + 1, "start_time": time.time()}
        live.record = live.record.model_copy(update=update)
        stage = self._stages[live.record.stage]
        live.attempt = Attempt(live.record, stage, self.store, self._cache, self._settings, live.journal)
        metrics.JOBS.labels(self.service, State.RUNNING.value).inc()
        try:
            live.record.save(self.store)
            live.journal.append(State.RUNNING, "state", f"running, attempt {live.record.attempt}")
            return live.attempt.run()
        except Interrupted as error:
            if live.cancelled.is_set():
                raise Cancelled(live.cancel_why) from error
            if self._draining.is_set():
                raise
            raise StageDied(f"the stage was stopped from outside: {error.message}") from error
        except Exception as error:
            raise foreign(error) from error
        finally:
            metrics.JOBS.labels(self.service, State.RUNNING.value).dec()
            live.attempt = None

    def _finish(
        self, live: LiveJob, state: State, *, result: str | None = None, failure: Failure | None = None
    ) -> None:
        """Write the end of a job, record first: a watcher that sees the stream end finds the final state."""
        end = {"state": state, "end_time": time.time(), "result": result, "failure": failure}
        live.record = live.record.model_copy(update=end)
        shutil.rmtree(job_folder(self._settings, live.record.job_id), ignore_errors=True)
        self._save_patiently(live.record)
        metrics.JOBS_FINISHED.labels(self.service, state.value).inc()
        message = result or (failure.message if failure else "")
        figures = load_manifest(self.store, ArtifactRef.parse(result)).metrics if result else {}
        live.journal.append(state, "state", f"{state.value.lower()}: {message}", data=figures)
        _log.info("job ended", extra={"state": state.value, "result": result})

    def _save_patiently(self, record: JobRecord) -> None:
        deadline = time.monotonic() + self._settings.store_patience_seconds
        while True:
            try:
                record.save(self.store)
            except ArtifactError:
                if time.monotonic() > deadline or self._draining.is_set():
                    raise
                time.sleep(_STORE_RETRY_SECONDS)
            else:
                return
