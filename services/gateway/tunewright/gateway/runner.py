"""How one stage of a run is carried out: submit, follow, wait out what is down, pause, cancel. Knows no order.

Every method may be repeated after a crash: submitting attaches to the job that runs or is finished, an event is kept
once.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict

from tunewright.artifacts import ArtifactRef
from tunewright.chassis.errors import (
    Cancelled,
    EngineDied,
    Internal,
    Interrupted,
    NotFound,
    TunewrightError,
    Unavailable,
)
from tunewright.chassis.records import ref_from_proto
from tunewright.gateway import stages
from tunewright.gateway.aliases import Aliases
from tunewright.gateway.clients import Room, Rooms, result_of
from tunewright.gateway.fields import values_of
from tunewright.gateway.journal import Event, Journal
from tunewright.gateway.owners import taken
from tunewright.gateway.recipe import Recipe, parse
from tunewright.gateway.routing import Routes
from tunewright.gateway.stages import Inputs, JobStage
from tunewright.gateway.versions import Cause, Versions
from tunewright.gateway.visible import VisibleModels
from tunewright.v1 import inference_pb2, job_pb2

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 15.0
_DEPLOYMENT_POLL_SECONDS = 0.5
_PAUSE_POLL_SECONDS = 1.0
_DRAIN_SECONDS = 30.0
"""Longest wait for answers that a replaced deployment is still giving."""
_ENDED = {job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED}
_SEVERITIES = {job_pb2.SEVERITY_WARNING: "warning", job_pb2.SEVERITY_ERROR: "error"}

PAUSED = ""
"""What a stage gives in place of a reference when its run is to pause."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


class StageRunner:
    """Carries out the stages of runs. Thread-safe; blocks until a stage has ended."""

    def __init__(
        self,
        journal: Journal,
        rooms: Rooms,
        aliases: Aliases,
        versions: Versions,
        routes: Routes,
        models: VisibleModels,
        *,
        deploy_timeout_seconds: float,
    ) -> None:
        self.journal = journal
        self._versions = versions
        self._rooms = rooms
        self._aliases = aliases
        self._routes = routes
        self._models = models
        self._deploy_timeout_seconds = deploy_timeout_seconds

    def begin(self, run_id: str) -> dict[str, Any]:
        """Mark a run as running and return its recipe."""
        return self.patiently(run_id, "begin", lambda: self.journal.start(run_id))

    def succeed(self, run_id: str) -> None:
        """Mark a run as succeeded."""
        self.patiently(run_id, "end", lambda: self.journal.finish(run_id), cancellable=False)

    def fail(self, run_id: str, error: TunewrightError) -> None:
        """Stop what an unsuccessful run left behind, and mark it as failed or cancelled."""
        self.patiently(run_id, "end", lambda: self._clean_up(run_id), cancellable=False)
        self.patiently(run_id, "end", lambda: self.journal.finish(run_id, error), cancellable=False)

    def job(self, run_id: str, stage_name: str, inputs: Mapping[str, str]) -> str:
        """Run one job stage to its end and return the reference of its artifact; `PAUSED` if the run is to pause.

        A run that pauses has its job stopped with a checkpoint written; the same call again goes on from there.

        Args:
            run_id: the run.
            stage_name: a name in `stages.JOB_STAGES`, or one with the recipe's stage behind it: `train:sft`.
            inputs: name → reference of the artifacts it reads.

        Raises:
            Cancelled: somebody cancelled the run.
            TunewrightError: the stage failed in a way that the same again would not mend.
        """
        stage, part = stages.job_stage(stage_name)
        refs = Inputs({name: ArtifactRef.parse(text) for name, text in inputs.items()})

        def attempt() -> str:
            """Submit, or attach to what runs, and follow it to its end."""
            if self.journal.pause_requested(run_id):
                return PAUSED
            job = self._follow(run_id, stage, self._recipe(run_id).at(part), refs)
            if self._was_paused(run_id, job):
                return PAUSED
            if job.state != job_pb2.JOB_STATE_SUCCEEDED:
                raise stages.failure_of(job)
            result = str(result_of(job))
            self.journal.stage_succeeded(run_id, stage_name, result)
            return result

        return self.patiently(run_id, stage_name, attempt)

    def wait_until_resumed(self, run_id: str) -> None:
        """Tell that the run is paused and return once it is not; at once if it was resumed meanwhile.

        Raises:
            Cancelled: the run was cancelled instead.
        """
        self.patiently(run_id, "pause", lambda: self._wait_until_resumed(run_id))

    def deploy(self, run_id: str, stage_name: str, name: str, model: str) -> str:
        """Bring a model up under a deployment name and return that name once it answers.

        Raises:
            Cancelled: somebody cancelled the run.
            Conflict: another project has another model under this name.
            TunewrightError: the deployment failed.
        """
        refs = Inputs({"model": ArtifactRef.parse(model)})

        def attempt() -> str:
            """Deploy, or attach to the deployment, and wait until it answers."""
            self._refuse_to_replace(run_id, name, model)
            self.journal.stage_runs(run_id, stage_name, service=Room.INFERENCE.value, deployment=name)
            deployment = stages.deploy(self._rooms, self._recipe(run_id), name, refs)
            self._await_ready(run_id, stage_name, deployment)
            self.journal.stage_succeeded(run_id, stage_name, name)
            return name

        return self.patiently(run_id, stage_name, attempt)

    def pass_over(self, run_id: str, stage_name: str, result: str) -> str:
        """Mark a stage as done without a job, as the stage before it gave its result already; return that result."""
        self.patiently(run_id, stage_name, lambda: self.journal.stage_succeeded(run_id, stage_name, result))
        return result

    def promote(self, run_id: str, stage_name: str, deployment: str) -> str:
        """Let the recipe's name be answered by `deployment`; the one before it finishes its answers and is stopped."""

        def attempt() -> str:
            """Point the name, then let go of the deployment before."""
            self.journal.stage_runs(run_id, stage_name, service=Room.INFERENCE.value, deployment=deployment)
            name = self._recipe(run_id).name
            before = self._aliases.all().get(name)
            model = str(ref_from_proto(self._rooms.deployment(deployment).model))
            cause = Cause(who=f"run {run_id}", why="the run's model was evaluated")
            spec = values_of(self._recipe(run_id).section("deployment", inference_pb2.DeploymentSpec))
            self._versions.adopt(name, deployment, model, spec, cause, run_id)
            self._routes.forget()
            if before is not None and before.deployment != deployment:
                self._routes.drain(before.deployment, _DRAIN_SECONDS)
                self._undeploy(before.deployment)
            self.journal.stage_succeeded(run_id, stage_name, deployment)
            return name

        return self.patiently(run_id, stage_name, attempt)

    def cancel_jobs(self, run_id: str) -> None:
        """Ask for the end of the run's jobs, except those that another run waits for.

        Raises:
            Unavailable: a room does not answer.
        """
        self._stop_jobs(run_id, f"run {run_id} was cancelled")

    def pause_jobs(self, run_id: str) -> None:
        """Ask the run's jobs to save a checkpoint and end, except those that another run waits for.

        Raises:
            Unavailable: a room does not answer.
        """
        self._stop_jobs(run_id, _why_paused(run_id))

    def _stop_jobs(self, run_id: str, why: str) -> None:
        for service, job_id in self.journal.active_jobs(run_id):
            try:
                self._rooms.cancel_job(Room(service), job_id, why)
            except NotFound:
                _log.info("a job to cancel is gone already", extra={"run_id": run_id, "job_id": job_id})

    def patiently(self, run_id: str, stage: str, attempt: Callable[[], T], *, cancellable: bool = True) -> T:
        """Return what `attempt` returns, however long a room, the store or the database is down.

        Raises:
            Cancelled: the run was cancelled meanwhile.
            TunewrightError: a failure that waiting does not mend.
        """
        wait, told = _FIRST_WAIT_SECONDS, ""
        while True:
            try:
                if cancellable:
                    self._raise_if_cancelled(run_id)
                return attempt()
            except (Unavailable, Interrupted) as error:
                if error.message != told:
                    self._tell_waiting(run_id, stage, error)
                    told = error.message
            time.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)

    def _follow(self, run_id: str, stage: JobStage, recipe: Recipe, inputs: Inputs) -> job_pb2.Job:
        job = stage.submit(self._rooms, recipe, inputs)
        room = stage.room
        self.journal.stage_runs(run_id, stage.name, service=room.value, job_id=job.job_id)
        _log.info("stage follows its job", extra={"run_id": run_id, "job_id": job.job_id, "stage": stage.name})
        after = self.journal.last_job_sequence(run_id, job.job_id)
        if job.state in _ENDED and after == 0:
            text = f"{stage.name}: found finished, nothing to do"
            self.journal.tell(run_id, Event(type="reused", stage=stage.name, message=text, job_id=job.job_id))
            return job
        while True:
            for event in self._rooms.watch(room, job.job_id, after):
                self.journal.tell(run_id, _from_job(stage.name, event))
                after = event.sequence
            job = self._rooms.get_job(room, job.job_id)
            if job.state in _ENDED and job.last_sequence <= after:
                return job
            self._raise_if_cancelled(run_id)
            if self.journal.pause_requested(run_id):
                self.pause_jobs(run_id)
                if not self._works_for_us(run_id, job.job_id):
                    return job  # another run waits for it too: it goes on without this one

    def _works_for_us(self, run_id: str, job_id: str) -> bool:
        return any(active == job_id for _, active in self.journal.active_jobs(run_id))

    def _was_paused(self, run_id: str, job: job_pb2.Job) -> bool:
        """Return True for a job that ended, or is left alone, because its run pauses."""
        if job.state == job_pb2.JOB_STATE_SUCCEEDED:
            return False
        stopped = job.state == job_pb2.JOB_STATE_CANCELLED and job.failure.message == _why_paused(run_id)
        return stopped or job.state not in _ENDED

    def _wait_until_resumed(self, run_id: str) -> None:
        self.journal.paused(run_id)
        while self.journal.pause_requested(run_id):
            self._raise_if_cancelled(run_id)
            time.sleep(_PAUSE_POLL_SECONDS)

    def _refuse_to_replace(self, run_id: str, name: str, model: str) -> None:
        """Leave alone what another project uses: inference replaces what differs."""
        try:
            found = self._rooms.deployment(name)
        except NotFound:
            return
        stopped = found.state == inference_pb2.DEPLOYMENT_STATE_STOPPED
        if not stopped and str(ref_from_proto(found.model)) != model and self._models.used_beside(run_id, name):
            raise taken(name)

    def _await_ready(self, run_id: str, stage: str, deployment: inference_pb2.Deployment) -> None:
        deadline = time.monotonic() + self._deploy_timeout_seconds
        told = ""
        while deployment.state != inference_pb2.DEPLOYMENT_STATE_READY:
            if deployment.detail and deployment.detail != told:
                told = deployment.detail
                self.journal.tell(run_id, Event(type="deployment", stage=stage, message=f"{deployment.name}: {told}"))
            if deployment.state == inference_pb2.DEPLOYMENT_STATE_FAILED:
                raise _final(stages.error_of(deployment.failure, f"{deployment.name} failed without saying why"))
            if deployment.state == inference_pb2.DEPLOYMENT_STATE_STOPPED:
                raise Interrupted(f"deployment {deployment.name} was stopped while the run waited for it")
            if time.monotonic() > deadline:
                raise Internal(
                    f"deployment {deployment.name} did not answer within {self._deploy_timeout_seconds:.0f} s",
                    remedy="Look at the engine's log; a large model may need more TUNEWRIGHT_DEPLOY_TIMEOUT_SECONDS.",
                )
            time.sleep(_DEPLOYMENT_POLL_SECONDS)
            self._raise_if_cancelled(run_id)
            deployment = self._deployment(deployment.name)

    def _deployment(self, name: str) -> inference_pb2.Deployment:
        try:
            return self._rooms.deployment(name)
        except NotFound as error:
            raise Interrupted(f"inference has forgotten the deployment {name}; it is asked for again") from error

    def _clean_up(self, run_id: str) -> None:
        """Stop what the run deployed, unless a public name is answered by it or another run uses it."""
        aliases = self._aliases.all()
        kept = {alias.deployment for alias in aliases.values()} | {f"{name}-base" for name in aliases}
        kept |= self.journal.deployments_of_others(run_id)
        for name in self.journal.deployments(run_id):
            if name not in kept:
                self._undeploy(name)

    def _undeploy(self, name: str) -> None:
        try:
            self._rooms.undeploy(name)
        except NotFound:
            _log.info("a deployment to stop is gone already", extra={"deployment": name})

    def _recipe(self, run_id: str) -> Recipe:
        return parse(self.journal.recipe(run_id))

    def _raise_if_cancelled(self, run_id: str) -> None:
        if self.journal.cancel_requested(run_id):
            self.cancel_jobs(run_id)
            raise Cancelled(f"run {run_id} was cancelled")

    def _tell_waiting(self, run_id: str, stage: str, error: TunewrightError) -> None:
        text = f"{stage}: waiting, {error.message}"
        _log.warning(text, extra={"run_id": run_id})
        try:
            self.journal.tell(run_id, Event(type="waiting", severity="warning", stage=stage, message=text))
        except Unavailable:
            _log.warning("the database does not answer either", extra={"run_id": run_id})


def _why_paused(run_id: str) -> str:
    return f"run {run_id} was paused"


def _from_job(stage: str, event: job_pb2.JobEvent) -> Event:
    return Event(
        type=event.type,
        severity=_SEVERITIES.get(event.severity, "info"),
        stage=stage,
        message=event.message,
        time=event.time.ToNanoseconds() / 1e9,
        data={
            **MessageToDict(event.data),
            "job_state": job_pb2.JobState.Name(event.state).removeprefix("JOB_STATE_").lower(),
        },
        job_id=event.job_id,
        job_sequence=event.sequence,
    )


def _final(error: TunewrightError) -> TunewrightError:
    """Return the error of a deployment that failed: inference has tried a dying engine often enough already."""
    if not isinstance(error, EngineDied):
        return error
    return Internal(error.message, remedy="Mend what the engine's last lines name, then submit the run again.")
