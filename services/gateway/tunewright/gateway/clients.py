"""The rooms behind the gateway, as gRPC clients: channels, deadlines, and every failure as a TunewrightError.

Knows nothing of the order in which they are called. Thread-safe.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from tunewright.artifacts import ArtifactRef
from tunewright.chassis.errors import Internal, TunewrightError, Unavailable
from tunewright.chassis.records import ref_from_proto
from tunewright.chassis.rpc_status import from_rpc_error
from tunewright.gateway.settings import GatewaySettings
from tunewright.v1 import (
    dataprep_pb2_grpc,
    evaluation_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    merging_pb2_grpc,
    training_pb2_grpc,
)

CALL_SECONDS = 30.0
"""Deadline of a call that only asks or files something. Checking a model id on a hub takes the longest."""
WATCH_SECONDS = 20.0
"""A watch is asked anew after this long, so that a half-open connection cannot hold a run for ever."""
_HEALTH_SECONDS = 2.0
_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Room(StrEnum):
    """A service; the value is its name in jobs and logs."""

    DATAPREP = "dataprep"
    TRAINER = "trainer"
    MERGER = "merger"
    EVALUATOR = "evaluator"
    INFERENCE = "inference"


class Rooms:
    """One channel to each room."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._addresses = {room: str(getattr(settings, f"{room.value}_address")) for room in Room}
        credentials = _credentials(settings)
        channels = {room: _channel(address, credentials) for room, address in self._addresses.items()}
        self._channels = channels
        self._jobs = {room: job_pb2_grpc.JobServiceStub(channel) for room, channel in channels.items()}
        self._health = {room: _health_check(channel) for room, channel in channels.items()}
        self.dataprep = dataprep_pb2_grpc.DataprepServiceStub(channels[Room.DATAPREP])
        self.training = training_pb2_grpc.TrainingServiceStub(channels[Room.TRAINER])
        self.merging = merging_pb2_grpc.MergingServiceStub(channels[Room.MERGER])
        self.evaluation = evaluation_pb2_grpc.EvaluationServiceStub(channels[Room.EVALUATOR])
        self.inference = inference_pb2_grpc.InferenceServiceStub(channels[Room.INFERENCE])

    def call(
        self, room: Room, method: Callable[..., ResponseT], request: object, *, seconds: float = CALL_SECONDS
    ) -> ResponseT:
        """Return the answer of one call.

        Raises:
            TunewrightError: what the room raised; Unavailable if it does not answer, with its name.
        """
        try:
            return method(request, timeout=seconds)
        except grpc.RpcError as error:
            raise self._named(room, error) from error

    def get_job(self, room: Room, job_id: str) -> job_pb2.Job:
        """Return the newest state of a job. Raises TunewrightError."""
        return self.call(room, self._jobs[room].GetJob, job_pb2.GetJobRequest(job_id=job_id)).job

    def cancel_job(self, room: Room, job_id: str, why: str) -> None:
        """Ask for the end of a job. Raises TunewrightError."""
        self.call(room, self._jobs[room].CancelJob, job_pb2.CancelJobRequest(job_id=job_id, why=why))

    def watch(self, room: Room, job_id: str, after_sequence: int) -> Iterator[job_pb2.JobEvent]:
        """Yield the events after a sequence number, until the job ends or WATCH_SECONDS are over.

        Raises:
            TunewrightError: the room's error; Unavailable if the connection breaks.
        """
        request = job_pb2.WatchJobRequest(job_id=job_id, after_sequence=after_sequence)
        call = self._jobs[room].WatchJob(request, timeout=WATCH_SECONDS)
        try:
            for response in call:
                yield response.event
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._named(room, error) from error
        finally:
            call.cancel()

    def deployment(self, name: str) -> inference_pb2.Deployment:
        """Return a deployment as it is right now. Raises NotFound, Unavailable."""
        request = inference_pb2.GetDeploymentRequest(name=name)
        return self.call(Room.INFERENCE, self.inference.GetDeployment, request).deployment

    def deployments(self) -> list[inference_pb2.Deployment]:
        """Return all deployments. Raises Unavailable."""
        request = inference_pb2.ListDeploymentsRequest()
        return list(self.call(Room.INFERENCE, self.inference.ListDeployments, request).deployments)

    def undeploy(self, name: str) -> inference_pb2.Deployment:
        """Stop a deployment. Raises NotFound, Unavailable."""
        request = inference_pb2.UndeployRequest(name=name)
        return self.call(Room.INFERENCE, self.inference.Undeploy, request).deployment

    def condition(self, room: Room) -> str:
        """Return "ok", or in words what is wrong with the room."""
        try:
            answer = self.call(room, self._health[room], health_pb2.HealthCheckRequest(), seconds=_HEALTH_SECONDS)
        except TunewrightError as error:
            return error.message
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return "ok" if serving else "it answers, and says that it is not serving"

    def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            channel.close()

    def _named(self, room: Room, error: grpc.RpcError) -> TunewrightError:
        mapped = from_rpc_error(error)
        bare = rpc_status.from_call(error) is None  # type: ignore[arg-type] # every RpcError of a call is a Call
        if isinstance(mapped, Unavailable) and bare:
            return Unavailable(f"{room.value} at {self._addresses[room]} does not answer ({error.details()})")
        return mapped


def result_of(job: job_pb2.Job) -> ArtifactRef:
    """Return the artifact of a job that succeeded.

    Raises:
        Internal: it names none.
    """
    if not job.HasField("result"):
        raise Internal(f"job {job.job_id} of {job.service} succeeded without a result")
    return ref_from_proto(job.result)


def _health_check(channel: grpc.Channel) -> Callable[..., health_pb2.HealthCheckResponse]:
    return channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )


def _credentials(settings: GatewaySettings) -> grpc.ChannelCredentials | None:
    if settings.tls_ca is None or settings.tls_key is None or settings.tls_cert is None:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=settings.tls_ca.read_bytes(),
        private_key=settings.tls_key.read_bytes(),
        certificate_chain=settings.tls_cert.read_bytes(),
    )


def _channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(address, credentials, options=_OPTIONS)
