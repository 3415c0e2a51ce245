"""One room as a process: the chassis's server and job runner, the real protos, tiny stages. `python -m … NAME`."""

import sys
import time
from typing import TYPE_CHECKING, Any

import grpc

from tests.gateway import stages
from tests.gateway.engine import Engine
from tunewright.chassis.errors import Conflict, InvalidSpec, NotFound, Unavailable, Violation
from tunewright.chassis.main import serve
from tunewright.chassis.records import ref_from_proto, timestamp
from tunewright.chassis.settings import ServiceSettings, read_settings
from tunewright.v1 import (
    dataprep_pb2,
    dataprep_pb2_grpc,
    evaluation_pb2,
    evaluation_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    job_pb2,
    merging_pb2,
    merging_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)

if TYPE_CHECKING:
    from tunewright.chassis.jobs import JobRunner

_START_SECONDS = 0.3


class Dataprep(dataprep_pb2_grpc.DataprepServiceServicer):
    """Prepares."""

    def __init__(self, jobs: "JobRunner") -> None:
        self._jobs = jobs

    def SubmitDataprep(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802 - the stub's names
        spec = stages.PrepareSpec.from_proto(request.spec)
        inputs = {f"upload_{n:03}": ref_from_proto(ref) for n, ref in enumerate(request.uploads)}
        base = {"base": ref_from_proto(request.base)}
        job = self._jobs.submit(stages.PREPARE, spec, inputs, references=base, validate_only=request.validate_only)
        return dataprep_pb2.SubmitDataprepResponse(job=job)


class Training(training_pb2_grpc.TrainingServiceServicer):
    """Trains."""

    def __init__(self, jobs: "JobRunner") -> None:
        self._jobs = jobs

    def SubmitTraining(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        spec = stages.TrainSpec.from_proto(request.spec)
        inputs = {"dataset": ref_from_proto(request.dataset), "base": ref_from_proto(request.base)}
        if request.HasField("adapter"):
            inputs["adapter"] = ref_from_proto(request.adapter)
        job = self._jobs.submit(stages.TRAIN, spec, inputs, validate_only=request.validate_only)
        return training_pb2.SubmitTrainingResponse(job=job)


class Merging(merging_pb2_grpc.MergingServiceServicer):
    """Merges and imports; knows the base models `tiny` and `other`, and a hub that is down."""

    def __init__(self, jobs: "JobRunner") -> None:
        self._jobs = jobs

    def SubmitImport(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        spec = stages.ImportSpec.from_proto(request.spec)
        if spec.source == "hub/down":
            raise Unavailable("the hub does not answer")
        if spec.source not in {"tiny", "other"}:
            raise InvalidSpec("no such model", violations=[Violation("source", f"no model {spec.source!r}")])
        job = self._jobs.submit(stages.IMPORT, spec, {}, validate_only=request.validate_only)
        return merging_pb2.SubmitImportResponse(job=job)

    def SubmitMerge(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        spec = stages.MergeSpec.from_proto(request.spec)
        names = ("adapter", "base", "dataset")
        inputs = {name: ref_from_proto(getattr(request, name)) for name in names}
        job = self._jobs.submit(stages.MERGE, spec, inputs, validate_only=request.validate_only)
        return merging_pb2.SubmitMergeResponse(job=job)

    def SubmitExport(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        raise NotFound("there is nothing to export here")


class Evaluation(evaluation_pb2_grpc.EvaluationServiceServicer):
    """Evaluates."""

    def __init__(self, jobs: "JobRunner") -> None:
        self._jobs = jobs

    def SubmitEvaluation(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        spec = stages.EvaluationSpec.from_proto(request.spec)
        targets = {name: getattr(request, name) for name in ("base", "tuned")}
        job = self._jobs.submit(
            stages.EVALUATE,
            spec,
            {"dataset": ref_from_proto(request.dataset)},
            references={name: ref_from_proto(target.model) for name, target in targets.items()},
            runtime={name: {"endpoint": t.endpoint, "name": t.served_model_name} for name, t in targets.items()},
            validate_only=request.validate_only,
        )
        return evaluation_pb2.SubmitEvaluationResponse(job=job)


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Serves all deployments by one engine; a deployment named `…recovering…` never gets ready again."""

    def __init__(self) -> None:
        self._engine = Engine()
        self._deployments: dict[str, inference_pb2.Deployment] = {}

    def Deploy(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        if request.spec.max_num_seqs > 1000:
            raise InvalidSpec("wrong", violations=[Violation("max_num_seqs", "at most 1000")])
        if not request.validate_only:
            self._start(request)
        return inference_pb2.DeployResponse(deployment=self._deployments.get(request.name))

    def GetDeployment(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        return inference_pb2.GetDeploymentResponse(deployment=self._known(request.name))

    def ListDeployments(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        return inference_pb2.ListDeploymentsResponse(deployments=[self._known(name) for name in self._deployments])

    def Undeploy(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802
        found = self._known(request.name)
        if found.state == inference_pb2.DEPLOYMENT_STATE_STOPPED:
            raise Conflict("stopped already")
        found.state = inference_pb2.DEPLOYMENT_STATE_STOPPED
        return inference_pb2.UndeployResponse(deployment=found)

    def _start(self, request: Any) -> None:  # noqa: ANN401 - a message
        standing = self._deployments.get(request.name)
        live = standing is not None and standing.state != inference_pb2.DEPLOYMENT_STATE_STOPPED
        if standing is not None and live and standing.model == request.model:
            return
        fresh = inference_pb2.Deployment(
            name=request.name,
            state=inference_pb2.DEPLOYMENT_STATE_STARTING,
            model=request.model,
            adapter=request.adapter if request.HasField("adapter") else None,
            served_model_name=request.name,
            endpoint=self._engine.url,
            create_time=timestamp(time.time()),
            detail="loading weights",
        )
        self._deployments[request.name] = fresh

    def _known(self, name: str) -> inference_pb2.Deployment:
        if name not in self._deployments:
            raise NotFound(f"no deployment {name!r}")
        found = self._deployments[name]
        age = time.time() - found.create_time.ToNanoseconds() / 1e9
        if found.state == inference_pb2.DEPLOYMENT_STATE_STARTING and age > _START_SECONDS:
            recovering = "recovering" in name
            found.state = (
                inference_pb2.DEPLOYMENT_STATE_RECOVERING if recovering else inference_pb2.DEPLOYMENT_STATE_READY
            )
            found.detail = ""
            if "hopeless" in name:
                found.state = inference_pb2.DEPLOYMENT_STATE_FAILED
                found.failure.CopyFrom(
                    job_pb2.JobFailure(reason="OUT_OF_RESOURCES", message="no memory", remedy="Free some.")
                )
            if "dying" in name:
                found.state = inference_pb2.DEPLOYMENT_STATE_FAILED
                found.failure.CopyFrom(job_pb2.JobFailure(reason="ENGINE_DIED", message="given up", retryable=True))
        return found


def _register(name: str) -> Any:  # noqa: ANN401 - a function of the chassis's shape
    def register(server: grpc.Server, jobs: "JobRunner", settings: ServiceSettings) -> list[str]:
        del settings
        if name == "dataprep":
            dataprep_pb2_grpc.add_DataprepServiceServicer_to_server(Dataprep(jobs), server)
        elif name == "trainer":
            training_pb2_grpc.add_TrainingServiceServicer_to_server(Training(jobs), server)
        elif name == "merger":
            merging_pb2_grpc.add_MergingServiceServicer_to_server(Merging(jobs), server)
        elif name == "evaluator":
            evaluation_pb2_grpc.add_EvaluationServiceServicer_to_server(Evaluation(jobs), server)
        else:
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(Inference(), server)
        return []

    return register


STAGES = {
    "dataprep": {"dataprep": stages.PREPARE},
    "trainer": {"trainer": stages.TRAIN},
    "merger": {"merge": stages.MERGE, "import": stages.IMPORT},
    "evaluator": {"evaluator": stages.EVALUATE},
    "inference": {},
}

if __name__ == "__main__":
    serve(sys.argv[1], read_settings(ServiceSettings), STAGES[sys.argv[1]], _register(sys.argv[1]))
