"""One attempt at a job: inputs from the store, newest checkpoint, the stage in its process, the artifact committed.

Knows nothing of queues, retries and final states (`jobs.py`).
"""

import logging
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tunewright.artifacts import ArtifactError, ArtifactRef, Manifest, Progress, Store, seal
from tunewright.artifacts import checkpoints as stored_checkpoints
from tunewright.artifacts.transfer import commit
from tunewright.chassis import metrics
from tunewright.chassis.errors import Interrupted, StageDied
from tunewright.chassis.inputs import Held, InputCache
from tunewright.chassis.journal import Journal
from tunewright.chassis.process import StageProcess
from tunewright.chassis.records import JobRecord, State
from tunewright.chassis.reporter import handed_name
from tunewright.chassis.settings import ServiceSettings
from tunewright.chassis.stage import Stage

_KEEP_CHECKPOINTS = 2
_PROGRESS_SECONDS = 1.0
"""Progress events that come faster are left out of the journal; metrics see them all."""

_log = logging.getLogger(__name__)


def job_folder(settings: ServiceSettings, job_id: str) -> Path:
    """Return the folder that the attempts at a job work in; of a job that has ended, it is to be removed."""
    return settings.work_dir / "jobs" / job_id[:32]


class Attempt:
    """Runs once; `stop` may be called from another thread at any time."""

    def __init__(
        self,
        record: JobRecord,
        stage: Stage,
        store: Store,
        cache: InputCache,
        settings: ServiceSettings,
        journal: Journal,
    ) -> None:
        self._record = record
        self._stage = stage
        self._store = store
        self._cache = cache
        self._settings = settings
        self._journal = journal
        self._folder = job_folder(settings, record.job_id)
        self._stopped = threading.Event()
        self._process: StageProcess | None = None
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._uploads: list[Future[None]] = []
        self._last_progress = 0.0

    def run(self) -> ArtifactRef:
        """Run the stage and return the artifact it made.

        Raises:
            TunewrightError: what the stage raised; StageDied, Interrupted.
            ArtifactError: the store fails.
            OSError: this machine's disk fails.
        """
        self._fresh_folder()
        kept: tuple[str, ...] = ()
        inputs = {name: ArtifactRef.parse(text) for name, text in self._record.inputs.items()}
        try:
            with self._cache.hold(inputs, self._counter("download"), self._stage.files) as held:
                self._restore_checkpoint()
                started = time.monotonic()
                try:
                    draft = self._run_process(held)
                finally:
                    metrics.STAGE_SECONDS.labels(self._record.service).observe(time.monotonic() - started)
                    self._wait_for_uploads()
                return self._commit(draft, inputs)
        except StageDied:
            kept = self._stage.keeps
            raise
        finally:
            self._uploader.shutdown(wait=True)
            self._keep(kept)

    def stop(self) -> None:
        """Ask the stage to save and end; it is killed after the grace period."""
        self._stopped.set()
        if self._process is not None:
            self._process.stop(self._settings.stop_grace_seconds)

    def _fresh_folder(self) -> None:
        self._keep(self._stage.keeps)
        for name in ("output", "checkpoints", "outbox"):
            (self._folder / name).mkdir(parents=True)

    def _keep(self, names: tuple[str, ...]) -> None:
        """Remove everything in the folder but what has one of these names."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        if not names:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _restore_checkpoint(self) -> None:
        step = stored_checkpoints.restore_newest(self._store, self._record.job_id, self._folder / "checkpoints")
        if step is not None:
            self._say("resume", f"going on from the checkpoint after step {step}", step=step)

    def _run_process(self, held: dict[str, Held]) -> Manifest:
        self._process = StageProcess(self._folder, self._on_event, self._on_memory)
        if self._stopped.is_set():
            raise Interrupted("stopped before the stage started")
        return self._process.run(
            {
                "service": self._record.service,
                "function": self._stage.function,
                "spec_class": f"{self._stage.spec.__module__}:{self._stage.spec.__qualname__}",
                "spec": self._record.spec,
                "inputs": {name: str(found.folder.resolve()) for name, found in held.items()},
                "runtime": {
                    **self._record.runtime,
                    "job_id": self._record.job_id,
                    "manifests": {name: found.manifest.model_dump(mode="json") for name, found in held.items()},
                },
                "log_level": self._settings.log_level,
            }
        )

    def _commit(self, draft: Manifest, inputs: dict[str, ArtifactRef]) -> ArtifactRef:
        references = {name: ArtifactRef.parse(text) for name, text in self._record.references.items()}
        manifest = seal(draft, self._folder / "output", {**inputs, **references})
        size = sum(entry.size_bytes for entry in manifest.files)
        self._say("transfer", f"uploading {len(manifest.files)} files, {size} bytes", size_bytes=size)
        return commit(self._store, manifest, self._folder / "output", self._counter("upload"))

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["type"] == "progress":
            self._on_progress(event)
        else:
            self._journal.append(State.RUNNING, event["type"], event["message"], event["severity"], **event["data"])
        if event["type"] == "checkpoint":
            step, number = int(event["data"]["step"]), int(event["data"]["handed"])
            self._uploads.append(self._uploader.submit(self._upload_checkpoint, step, handed_name(step, number)))

    def _on_progress(self, event: dict[str, Any]) -> None:
        service, data = self._record.service, event["data"]
        metrics.STAGE_PROGRESS.labels(service).set(data["step"] / max(1, data["total"]))
        for name, value in data.items():
            if name not in {"step", "total", "unit"} and isinstance(value, int | float):
                metrics.STAGE_FIGURE.labels(service, name).set(value)
        finished = data["step"] >= data["total"]
        if finished or time.monotonic() - self._last_progress >= _PROGRESS_SECONDS:
            self._last_progress = time.monotonic()
            self._journal.append(State.RUNNING, "progress", event["message"], **data)

    def _on_memory(self, resident_bytes: int) -> None:
        metrics.STAGE_RSS.labels(self._record.service).set(resident_bytes)

    def _upload_checkpoint(self, step: int, name: str) -> None:
        directory = self._folder / "outbox" / name
        try:
            stored_checkpoints.save(self._store, self._record.job_id, step, directory)
            stored_checkpoints.prune(self._store, self._record.job_id, _KEEP_CHECKPOINTS)
        except (ArtifactError, OSError) as error:
            _log.warning("a checkpoint could not be saved", extra={"step": step, "error": str(error)})
            self._say("checkpoint", f"checkpoint {step} could not be saved: {error}", severity="warning", step=step)
        else:
            metrics.CHECKPOINTS.labels(self._record.service).inc()
            self._say("checkpoint_saved", f"checkpoint after step {step} is in the store", step=step)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _wait_for_uploads(self) -> None:
        for upload in self._uploads:
            upload.result()

    def _counter(self, direction: str) -> Progress:
        return lambda count: metrics.TRANSFERRED.labels(self._record.service, direction).inc(count)

    def _say(self, type_: str, message: str, severity: str = "info", **data: Any) -> None:  # noqa: ANN401
        self._journal.append(State.RUNNING, type_, message, severity, **data)
