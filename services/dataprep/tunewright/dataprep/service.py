"""DataprepService: proto to spec and job, nothing else."""

from typing import TYPE_CHECKING

import grpc

from tunewright.artifacts import ArtifactRef, Kind
from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.chassis.records import ref_from_proto
from tunewright.chassis.stage import Stage
from tunewright.dataprep.semantic.folder import digest_of, find_model
from tunewright.dataprep.settings import DataprepSettings
from tunewright.dataprep.spec import BASE, BASE_FILES, DataprepSpec, check_base
from tunewright.v1 import artifact_pb2, dataprep_pb2, dataprep_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunewright.chassis.jobs import JobRunner
    from tunewright.chassis.settings import ServiceSettings

MAX_UPLOADS = 1000
STAGES = {
    "dataprep": Stage(
        service="dataprep", function="tunewright.dataprep.stage:run", spec=DataprepSpec, files={BASE: BASE_FILES}
    )
}


class DataprepService(dataprep_pb2_grpc.DataprepServiceServicer):
    """Submits preparation jobs to the runner that the chassis gives it."""

    def __init__(self, jobs: "JobRunner", settings: DataprepSettings) -> None:
        self._jobs = jobs
        self._settings = settings

    def SubmitDataprep(  # noqa: N802 - gRPC's own naming
        self, request: dataprep_pb2.SubmitDataprepRequest, context: grpc.ServicerContext
    ) -> dataprep_pb2.SubmitDataprepResponse:
        """Start the job or attach to it; a wrong spec or reference is refused before anything is downloaded."""
        del context  # errors are raised and mapped by the chassis's interceptor
        spec = DataprepSpec.from_proto(request.spec)
        if spec.launcher == "ray":
            self._settings.refuse_without_cluster()
        if spec.semantic.model:
            folder = find_model(self._settings.embedding_root, spec.semantic.model, spec.semantic.digest)
            spec = spec.model_copy(update={"semantic": spec.semantic.model_copy(update={"digest": digest_of(folder)})})
        runtime = {"launcher": spec.launcher, "workers": spec.workers}
        inputs = _inputs(request.uploads) | _base(spec, request)
        job = self._jobs.submit(STAGES["dataprep"], spec, inputs, runtime=runtime, validate_only=request.validate_only)
        return dataprep_pb2.SubmitDataprepResponse(job=job)


def register(server: grpc.Server, jobs: "JobRunner", settings: "ServiceSettings") -> list[str]:
    """Add the room's servicer to `server` and return its full service name."""
    own = settings if isinstance(settings, DataprepSettings) else DataprepSettings()
    dataprep_pb2_grpc.add_DataprepServiceServicer_to_server(DataprepService(jobs, own), server)
    return [dataprep_pb2.DESCRIPTOR.services_by_name["DataprepService"].full_name]


def _base(spec: DataprepSpec, request: dataprep_pb2.SubmitDataprepRequest) -> dict[str, ArtifactRef]:
    """Return the base as an input, where the dataset depends on it: only then it is among the dataset's parents.

    Raises:
        InvalidSpec: the reference is to no model, or there is none and rows are to be filtered by tokens.
    """
    if not request.HasField("base"):
        check_base(spec, known=False)
        return {}
    ref = ref_from_proto(request.base)
    if ref.kind is not Kind.MODEL:
        why = f"expected a reference to models/…, found {ref.short}"
        raise InvalidSpec(f"base: {why}", violations=[Violation("base", why)])
    return {BASE: ref} if spec.reads_base else {}


def _inputs(uploads: "Iterable[artifact_pb2.ArtifactRef]") -> dict[str, ArtifactRef]:
    """Return input name → upload, named by their order.

    Raises:
        InvalidSpec: there is none, or there are too many, or one is no upload; all wrong ones are named.
    """
    refs = [ref_from_proto(message) for message in uploads]
    wrong = [
        Violation(f"uploads[{index}]", f"expected a reference to uploads/…, found {ref.short}")
        for index, ref in enumerate(refs)
        if ref.kind is not Kind.UPLOAD
    ]
    if len(refs) > MAX_UPLOADS:
        wrong = [Violation("uploads", f"{len(refs):,} raw files; {MAX_UPLOADS:,} are taken at most: join them")]
    if not refs:
        wrong = [Violation("uploads", "at least one raw file is needed")]
    if wrong:
        raise InvalidSpec("; ".join(f"{v.field}: {v.description}" for v in wrong), violations=wrong)
    return {f"upload_{index:03}": ref for index, ref in enumerate(refs)}
