"""EvaluationService: proto to spec and job, nothing else. Runs in the server process."""

from typing import TYPE_CHECKING

import grpc
from pydantic import ValidationError

from tunewright.artifacts import ArtifactRef, Kind
from tunewright.chassis.errors import InvalidSpec, Violation, foreign
from tunewright.chassis.records import ref_from_proto
from tunewright.chassis.stage import Stage
from tunewright.evaluator.client import Target
from tunewright.evaluator.spec import EvaluationSpec
from tunewright.v1 import artifact_pb2, evaluation_pb2, evaluation_pb2_grpc

if TYPE_CHECKING:
    from tunewright.chassis.jobs import JobRunner
    from tunewright.chassis.settings import ServiceSettings

STAGES = {"evaluator": Stage(service="evaluator", function="tunewright.evaluator.stage:run", spec=EvaluationSpec)}


class EvaluationService(evaluation_pb2_grpc.EvaluationServiceServicer):
    """Submits evaluation jobs to the runner that the chassis gives it."""

    def __init__(self, jobs: "JobRunner") -> None:
        self._jobs = jobs

    def SubmitEvaluation(  # noqa: N802 - gRPC's own naming
        self, request: evaluation_pb2.SubmitEvaluationRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.SubmitEvaluationResponse:
        """Start the job or attach to it; wrong specs, references and addresses are refused at once."""
        del context  # errors are raised and mapped by the chassis's interceptor
        spec = EvaluationSpec.from_proto(request.spec)
        targets = {"base": request.base, "tuned": request.tuned}
        models = {name: _ref(f"{name}.model", target.model, Kind.MODEL) for name, target in targets.items()}
        runtime = {name: _target(name, target) for name, target in targets.items()}
        job = self._jobs.submit(
            STAGES["evaluator"],
            spec,
            {"dataset": _ref("dataset", request.dataset, Kind.DATASET)},
            references=models,
            runtime={**runtime, "artifacts": {name: str(ref) for name, ref in models.items()}},
            validate_only=request.validate_only,
        )
        return evaluation_pb2.SubmitEvaluationResponse(job=job)


def register(server: grpc.Server, jobs: "JobRunner", settings: "ServiceSettings") -> list[str]:
    """Add the room's servicer to `server` and return its full service name."""
    del settings
    evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(EvaluationService(jobs), server)
    return [evaluation_pb2.DESCRIPTOR.services_by_name["EvaluationService"].full_name]


def _target(name: str, message: evaluation_pb2.EvaluationTarget) -> dict[str, str]:
    try:
        target = Target(endpoint=message.endpoint, served_model_name=message.served_model_name)
    except ValidationError as error:
        mapped = foreign(error)
        fields = [Violation(f"{name}.{v.field}", v.description) for v in mapped.violations]
        raise InvalidSpec(f"{name}: {mapped.message}", violations=fields) from error
    return target.model_dump()


def _ref(field: str, message: artifact_pb2.ArtifactRef, kind: Kind) -> ArtifactRef:
    ref = ref_from_proto(message)
    if ref.kind is not kind:
        why = f"expected a reference to {kind.value}/…, found {ref.short}"
        raise InvalidSpec(f"{field}: {why}", violations=[Violation(field, why)])
    return ref
