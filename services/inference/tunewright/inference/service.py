"""InferenceService: proto to spec and supervisor, nothing else. Never imports torch or vllm."""

from typing import cast

import grpc
from prometheus_client import REGISTRY

from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.records import Failure, ref_from_proto, ref_to_proto, timestamp
from tunewright.inference.deployment import Status
from tunewright.inference.metrics import EngineCollector
from tunewright.inference.records import Wanted
from tunewright.inference.settings import InferenceSettings
from tunewright.inference.spec import DeploymentSpec
from tunewright.inference.supervisor import Supervisor
from tunewright.v1 import inference_pb2, inference_pb2_grpc, job_pb2


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """The supervisor, on the wire. Errors are raised and mapped by the chassis's interceptor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def Deploy(  # noqa: N802 - gRPC's own naming, here and below
        self, request: inference_pb2.DeployRequest, context: grpc.ServicerContext
    ) -> inference_pb2.DeployResponse:
        """Serve a model, or a model with an adapter, under a name."""
        del context
        wanted = Wanted(
            name=request.name,
            spec=DeploymentSpec.from_proto(request.spec).canonical(),
            model=str(ref_from_proto(request.model)),
            adapter=str(ref_from_proto(request.adapter)) if request.HasField("adapter") else None,
            replaces=request.replaces,
        )
        status = self._supervisor.deploy(wanted, validate_only=request.validate_only)
        return inference_pb2.DeployResponse(deployment=to_proto(status))

    def GetDeployment(  # noqa: N802
        self, request: inference_pb2.GetDeploymentRequest, context: grpc.ServicerContext
    ) -> inference_pb2.GetDeploymentResponse:
        """Return one deployment as it stands."""
        del context
        return inference_pb2.GetDeploymentResponse(deployment=to_proto(self._supervisor.get(request.name)))

    def ListDeployments(  # noqa: N802
        self, request: inference_pb2.ListDeploymentsRequest, context: grpc.ServicerContext
    ) -> inference_pb2.ListDeploymentsResponse:
        """Return all deployments, oldest first."""
        del request, context
        return inference_pb2.ListDeploymentsResponse(deployments=[to_proto(found) for found in self._supervisor.all()])

    def Undeploy(  # noqa: N802
        self, request: inference_pb2.UndeployRequest, context: grpc.ServicerContext
    ) -> inference_pb2.UndeployResponse:
        """Stop a deployment for good."""
        del context
        return inference_pb2.UndeployResponse(deployment=to_proto(self._supervisor.undeploy(request.name)))


def to_proto(status: Status) -> inference_pb2.Deployment:
    """Return a deployment as callers see it."""
    wanted, name = status.wanted, f"DEPLOYMENT_STATE_{status.state.value}"
    found = inference_pb2.Deployment(
        name=wanted.name,
        state=cast("inference_pb2.DeploymentState", inference_pb2.DeploymentState.Value(name)),
        model=ref_to_proto(wanted.model_ref),
        endpoint=status.endpoint,
        create_time=timestamp(wanted.create_time),
        restarts=status.restarts,
        detail=status.detail,
        served_model_name=wanted.served_model_name,
    )
    if wanted.adapter_ref is not None:
        found.adapter.CopyFrom(ref_to_proto(wanted.adapter_ref))
    if status.failure is not None:
        found.failure.CopyFrom(job_pb2.JobFailure(**Failure.of(status.failure).model_dump()))
    if status.ready_time is not None:
        found.ready_time.CopyFrom(timestamp(status.ready_time))
    return found


def register(server: grpc.Server, jobs: JobRunner, settings: InferenceSettings) -> list[str]:
    """Restore what was deployed, add the room's servicer to `server`, return its full service name."""
    supervisor = Supervisor(settings, jobs.store)
    supervisor.restore()
    jobs.at_drain(supervisor.drain)
    REGISTRY.register(EngineCollector(supervisor.metric_pages))
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(InferenceService(supervisor), server)
    return [inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name]
