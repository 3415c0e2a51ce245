"""The gRPC server of a service: errors as rich status, JobService, health, reflection, TLS, draining.

Knows nothing of any one service: `register` adds its servicers.
"""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tunewright.chassis import metrics
from tunewright.chassis.errors import TunewrightError, foreign
from tunewright.chassis.jobs import JobRunner
from tunewright.chassis.journal import Event
from tunewright.chassis.records import State, timestamp
from tunewright.chassis.rpc_status import to_status
from tunewright.chassis.settings import ServiceSettings
from tunewright.v1 import job_pb2, job_pb2_grpc

_THREADS = 64
"""Each watcher holds a thread while it watches."""
_MAX_MESSAGE_BYTES = 4 << 20
_SEVERITIES = {
    "info": job_pb2.SEVERITY_INFO,
    "warning": job_pb2.SEVERITY_WARNING,
    "error": job_pb2.SEVERITY_ERROR,
}

_log = logging.getLogger(__name__)

Register = Callable[[grpc.Server, JobRunner, Any], list[str]]
"""Adds a service's servicers to the server; returns their full names."""


class JobServicer(job_pb2_grpc.JobServiceServicer):
    """The jobs of this service, on the wire."""

    def __init__(self, jobs: JobRunner) -> None:
        self._jobs = jobs

    def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:  # noqa: ARG002, N802 - the stub's names
        """Return one job."""
        return job_pb2.GetJobResponse(job=self._jobs.get(request.job_id))

    def ListJobs(self, request: job_pb2.ListJobsRequest, context: grpc.ServicerContext) -> job_pb2.ListJobsResponse:  # noqa: ARG002, N802
        """Return the newest jobs."""
        return job_pb2.ListJobsResponse(jobs=self._jobs.jobs(request.page_size or 100))

    def WatchJob(  # noqa: N802
        self, request: job_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.WatchJobResponse]:
        """Replay the events after a number, then follow them until the job ends."""
        for event in self._jobs.watch(request.job_id, request.after_sequence):
            if not context.is_active():
                return
            if event is not None:
                yield job_pb2.WatchJobResponse(event=event_to_proto(request.job_id, event))

    def CancelJob(self, request: job_pb2.CancelJobRequest, context: grpc.ServicerContext) -> job_pb2.CancelJobResponse:  # noqa: ARG002, N802
        """Ask a job to stop."""
        return job_pb2.CancelJobResponse(job=self._jobs.cancel(request.job_id, request.why))


def event_to_proto(job_id: str, event: Event) -> job_pb2.JobEvent:
    """Return an event as callers see it."""
    return job_pb2.JobEvent(
        job_id=job_id,
        sequence=event["sequence"],
        time=timestamp(event["time"]),
        severity=_SEVERITIES[event["severity"]],
        type=event["type"],
        message=event["message"],
        data=ParseDict(event["data"], Struct()),
        state=State(event["state"]).to_proto(),
    )


class ErrorInterceptor(grpc.ServerInterceptor):
    """Turns every exception into a status with details; measures every call."""

    def __init__(self, service: str) -> None:
        self._service = service

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Wrap unary and server-streaming calls; health and reflection pass through."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/tunewright."):
            return handler
        serializers = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), **serializers)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), **serializers)
        return handler

    def _unary(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
            """Answer one request; an error ends it with its rich status."""
            started = time.monotonic()
            try:
                response = behavior(request, context)
            except Exception as error:  # noqa: BLE001 - the border of the service
                self._abort(method, started, error, context)
            self._observe(method, started, "OK")
            return response

        return call

    def _stream(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - any message
            """Pass the answers on; an error ends them with its rich status."""
            started = time.monotonic()
            try:
                yield from behavior(request, context)
            except Exception as error:  # noqa: BLE001 - the border of the service
                self._abort(method, started, error, context)
            self._observe(method, started, "OK")

        return call

    def _abort(self, method: str, started: float, error: Exception, context: grpc.ServicerContext) -> NoReturn:
        mapped = foreign(error)
        self._observe(method, started, mapped.code.name)
        if mapped.code is grpc.StatusCode.INTERNAL:
            _log.error("call failed", extra={"method": method}, exc_info=error)
        context.abort_with_status(to_status(mapped))
        raise AssertionError("abort_with_status does not return")

    def _observe(self, method: str, started: float, code: str) -> None:
        metrics.RPC_SECONDS.labels(self._service, method, code).observe(time.monotonic() - started)


class ServiceServer:
    """Everything a service listens with, from start to drain."""

    def __init__(self, service: str, jobs: JobRunner, settings: ServiceSettings, register: Register) -> None:
        self._settings = settings
        self._health = health.HealthServicer()
        options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)]
        interceptors: list[grpc.ServerInterceptor] = [ErrorInterceptor(service)]
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), interceptors=interceptors, options=options)
        job_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(jobs), self._server)
        names = [*register(self._server, jobs, settings), "tunewright.v1.JobService"]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)
        self._names = ["", *names]
        self._probe_server: grpc.Server | None = None

    def start(self) -> str:
        """Listen; return the real host:port.

        Raises:
            TunewrightError: the port is taken, or a certificate cannot be read.
        """
        address = _bind(self._server, self._settings.listen, _credentials(self._settings))
        self._server.start()
        if self._settings.health_listen:
            self._probe_server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probe_server)
            _bind(self._probe_server, self._settings.health_listen, None)
            self._probe_server.start()
        for name in self._names:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return address

    def stop(self) -> None:
        """Say NOT_SERVING, refuse new calls, let running ones end within a second."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace=1).wait()
        if self._probe_server is not None:
            self._probe_server.stop(grace=0).wait()


def _bind(server: grpc.Server, listen: str, credentials: grpc.ServerCredentials | None) -> str:
    host = listen.rpartition(":")[0]
    try:
        port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError as error:
        raise TunewrightError(
            f"cannot listen on {listen}: {error}",
            remedy="Another process has the port: choose another TUNEWRIGHT_LISTEN, or port 0 to let the system pick.",
        ) from error
    return f"{host}:{port}"


def _credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    if settings.tls_cert is None or settings.tls_key is None or settings.tls_ca is None:
        _log.warning("no TLS certificates given: gRPC is plaintext")
        return None
    try:
        pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
        authority = settings.tls_ca.read_bytes()
    except OSError as error:
        raise TunewrightError(f"cannot read a TLS file: {error}", remedy="Check TUNEWRIGHT_TLS_*.") from error
    return grpc.ssl_server_credentials([pair], root_certificates=authority, require_client_auth=True)
