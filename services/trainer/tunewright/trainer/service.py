"""TrainingService: proto to spec and job, nothing else. Runs in the server process, so it never imports torch."""

from typing import TYPE_CHECKING

import grpc

from tunewright.artifacts import ArtifactError, ArtifactRef, Kind, Store
from tunewright.artifacts.transfer import load_manifest
from tunewright.chassis import ray_cluster
from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.chassis.records import ref_from_proto
from tunewright.chassis.stage import Stage
from tunewright.trainer.data import OBJECTIVES
from tunewright.trainer.doctor import DoctorService
from tunewright.trainer.settings import TrainerSettings
from tunewright.trainer.spec import BESIDE_IDENTITY, TrainingSpec
from tunewright.trainer.start import check_start
from tunewright.v1 import artifact_pb2, doctor_pb2, doctor_pb2_grpc, training_pb2, training_pb2_grpc

if TYPE_CHECKING:
    from tunewright.chassis.jobs import JobRunner
    from tunewright.chassis.settings import ServiceSettings

STAGES = {"trainer": Stage(service="trainer", function="tunewright.trainer.stage:run", spec=TrainingSpec)}


class TrainingService(training_pb2_grpc.TrainingServiceServicer):
    """Submits training jobs to the runner that the chassis gives it."""

    def __init__(self, jobs: "JobRunner", settings: TrainerSettings | None = None) -> None:
        self._jobs = jobs
        self._settings = settings or TrainerSettings()

    def SubmitTraining(  # noqa: N802 - gRPC's own naming
        self, request: training_pb2.SubmitTrainingRequest, context: grpc.ServicerContext
    ) -> training_pb2.SubmitTrainingResponse:
        """Start the job or attach to it; a wrong spec or reference is refused before anything is downloaded."""
        del context  # errors are raised and mapped by the chassis's interceptor
        spec = TrainingSpec.from_proto(request.spec)
        if spec.launcher == "ray":
            ray_cluster.refuse_without_cluster(self._settings.ray_address)
        inputs = {
            "dataset": _ref("dataset", request.dataset, Kind.DATASET),
            "base": _ref("base", request.base, Kind.MODEL),
        }
        if request.HasField("adapter"):
            inputs["adapter"] = _ref("adapter", request.adapter, Kind.ADAPTER)
            _check_start(self._jobs.store, inputs["adapter"], inputs["base"], spec)
        _check_rows(self._jobs.store, inputs["dataset"], spec)
        runtime = {name: getattr(spec, name) for name in BESIDE_IDENTITY}
        job = self._jobs.submit(STAGES["trainer"], spec, inputs, runtime=runtime, validate_only=request.validate_only)
        return training_pb2.SubmitTrainingResponse(job=job)


def register(server: grpc.Server, jobs: "JobRunner", settings: "ServiceSettings") -> list[str]:
    """Add the room's servicers to `server` and return their full service names."""
    own = settings if isinstance(settings, TrainerSettings) else None
    training_pb2_grpc.add_TrainingServiceServicer_to_server(TrainingService(jobs, own), server)
    doctor_pb2_grpc.add_DoctorServiceServicer_to_server(DoctorService(settings.work_dir), server)
    services = {**training_pb2.DESCRIPTOR.services_by_name, **doctor_pb2.DESCRIPTOR.services_by_name}
    return [services[name].full_name for name in ("TrainingService", "DoctorService")]


def _check_rows(store: Store, dataset: ArtifactRef, spec: TrainingSpec) -> None:
    """Refuse a dataset of rows that the objective does not read; its manifest says what they are.

    Raises:
        InvalidSpec: naming both, and the objective that would fit.
    """
    try:
        manifest = load_manifest(store, dataset)
    except ArtifactError:  # the job runner tells whether it is missing, damaged, or out of reach
        return
    held = OBJECTIVES.get(str(manifest.metrics.get("row_kind")))
    if held is None or held.objective == spec.objective:
        return
    why = f"{dataset.short} holds {held.words}, which objective {held.objective} reads, not {spec.objective}"
    raise InvalidSpec(
        f"objective: {why}",
        remedy=f"Set training.objective to {held.objective}, or prepare data of another kind.",
        violations=[Violation("objective", why)],
    )


def _check_start(store: Store, adapter: ArtifactRef, base: ArtifactRef, spec: TrainingSpec) -> None:
    """Refuse to go on from an adapter of another base or of another shape; its manifest says what it is.

    Raises:
        InvalidSpec: naming what differs.
    """
    try:
        manifest = load_manifest(store, adapter)
    except ArtifactError:  # the job runner tells whether it is missing, damaged, or out of reach
        check_start(spec, None)
        return
    if manifest.parents.get("base") != str(base):
        why = f"{adapter.short} was trained on {manifest.parents.get('base')}, not on {base.short}"
        raise InvalidSpec(f"adapter: {why}", violations=[Violation("adapter", why)])
    check_start(spec, manifest.spec)


def _ref(field: str, message: artifact_pb2.ArtifactRef, kind: Kind) -> ArtifactRef:
    ref = ref_from_proto(message)
    if ref.kind is not kind:
        why = f"expected a reference to {kind.value}/…, found {ref.short}"
        raise InvalidSpec(f"{field}: {why}", violations=[Violation(field, why)])
    return ref
