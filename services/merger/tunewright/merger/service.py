"""MergingService: proto to spec and job, nothing else. Runs in the server process, so it never imports torch."""

from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from tunewright.artifacts import ArtifactError, ArtifactRef, Kind
from tunewright.artifacts.transfer import load_manifest
from tunewright.chassis.errors import InvalidSpec, NotFound, Unavailable, Violation, foreign
from tunewright.chassis.records import ref_from_proto
from tunewright.chassis.settings import ServiceSettings
from tunewright.chassis.spec import unknown_name
from tunewright.chassis.stage import Stage
from tunewright.merger import hub
from tunewright.merger.lineage import check_lineage
from tunewright.merger.sources import FolderModel, HubModel, check_local, fingerprint, folders, resolve
from tunewright.merger.spec import ExportSpec, ImportSpec, MergeSpec
from tunewright.v1 import artifact_pb2, merging_pb2, merging_pb2_grpc

if TYPE_CHECKING:
    from tunewright.chassis.jobs import JobRunner

STAGES = {
    "merge": Stage(
        service="merger", function="tunewright.merger.stage:run", spec=MergeSpec, keeps=("output.candidates",)
    ),
    "import": Stage(service="merger", function="tunewright.merger.importing:run", spec=ImportSpec),
    "export": Stage(service="merger", function="tunewright.merger.exporting:run", spec=ExportSpec),
}
_INPUTS = {"adapter": Kind.ADAPTER, "base": Kind.MODEL, "dataset": Kind.DATASET}

_INPUTS_OF_EXPORT = {"model": Kind.MODEL, "dataset": Kind.DATASET}


class MergerSettings(ServiceSettings):
    """What the merger reads beyond every service's settings. The hub's own names are HF_ENDPOINT, HF_TOKEN, HF_HOME."""

    import_root: Path | None = None
    """Folder below which base models may be named by path; none: hub ids only."""


class MergingService(merging_pb2_grpc.MergingServiceServicer):
    """Submits merge and import jobs to the runner that the chassis gives it."""

    def __init__(self, jobs: "JobRunner", import_root: Path | None) -> None:
        self._jobs = jobs
        self._import_root = import_root

    def SubmitImport(  # noqa: N802 - gRPC's own naming
        self, request: merging_pb2.SubmitImportRequest, context: grpc.ServicerContext
    ) -> merging_pb2.SubmitImportResponse:
        """Start the import or attach to it. A folder's fingerprint is part of the job: a changed one is a new job."""
        del context  # errors are raised and mapped by the chassis's interceptor
        spec = ImportSpec.from_proto(request.spec)
        source = resolve(spec.source, self._import_root)
        if isinstance(source, FolderModel):
            check_local(source.path, spec.source, self._import_root or source.path)
            spec = spec.model_copy(update={"revision": spec.revision or fingerprint(source.path)})
        elif request.validate_only:
            self._look_up(source, spec)
        runtime = {"import_root": str(self._import_root)} if self._import_root else {}
        job = self._jobs.submit(STAGES["import"], spec, {}, runtime=runtime, validate_only=request.validate_only)
        return merging_pb2.SubmitImportResponse(job=job)

    def _look_up(self, source: HubModel, spec: ImportSpec) -> None:
        """Ask the hub; where it has no such model, the folders that could have been meant are named too."""
        try:
            hub.look_up(source.repo_id, spec.revision)
        except (NotFound, Unavailable) as error:
            known = folders(self._import_root) if self._import_root else []
            if not known:
                raise
            words = f"{error.message}; among the folders below the import root: {unknown_name(source.repo_id, known)}"
            raise type(error)(words, remedy=error.remedy) from error

    def SubmitMerge(  # noqa: N802 - gRPC's own naming
        self, request: merging_pb2.SubmitMergeRequest, context: grpc.ServicerContext
    ) -> merging_pb2.SubmitMergeResponse:
        """Start the merge or attach to it; a wrong spec, reference or base is refused before anything is downloaded."""
        del context
        spec = MergeSpec.from_proto(request.spec)
        inputs = {name: _ref(name, getattr(request, name), kind) for name, kind in _INPUTS.items()}
        self._check_lineage(inputs)
        job = self._jobs.submit(STAGES["merge"], spec, inputs, validate_only=request.validate_only)
        return merging_pb2.SubmitMergeResponse(job=job)

    def SubmitExport(  # noqa: N802 - gRPC's own naming
        self, request: merging_pb2.SubmitExportRequest, context: grpc.ServicerContext
    ) -> merging_pb2.SubmitExportResponse:
        """Start the export or attach to it."""
        del context
        spec = ExportSpec.from_proto(request.spec)
        inputs = {name: _ref(name, getattr(request, name), _INPUTS_OF_EXPORT[name]) for name in _INPUTS_OF_EXPORT}
        job = self._jobs.submit(STAGES["export"], spec, inputs, validate_only=request.validate_only)
        return merging_pb2.SubmitExportResponse(job=job)

    def _check_lineage(self, inputs: dict[str, ArtifactRef]) -> None:
        try:
            manifests = {name: load_manifest(self._jobs.store, ref) for name, ref in inputs.items()}
        except ArtifactError as error:
            raise foreign(error) from error
        check_lineage(manifests)


def register(server: grpc.Server, jobs: "JobRunner", settings: ServiceSettings) -> list[str]:
    """Add the room's servicer to `server` and return its full service name."""
    import_root = settings.import_root if isinstance(settings, MergerSettings) else None
    merging_pb2_grpc.add_MergingServiceServicer_to_server(MergingService(jobs, import_root), server)
    return [merging_pb2.DESCRIPTOR.services_by_name["MergingService"].full_name]


def _ref(field: str, message: artifact_pb2.ArtifactRef, kind: Kind) -> ArtifactRef:
    ref = ref_from_proto(message)
    if ref.kind is not kind:
        found = f"{ref.kind.value}, {kind.value} is needed"
        raise InvalidSpec(f"{field} names one of {found}", violations=[Violation(field, found)])
    return ref
