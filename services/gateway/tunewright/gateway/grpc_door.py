"""RolloutService: public names over gRPC, with the keys and rules of /v1/aliases. Off unless `grpc_listen` is set.

Plain like the HTTP port: TLS ends before both.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from tunewright.artifacts import ArtifactRef
from tunewright.chassis.errors import TunewrightError, Unauthenticated
from tunewright.chassis.records import ref_from_proto, ref_to_proto, timestamp
from tunewright.chassis.server import ErrorInterceptor
from tunewright.gateway.fields import values_of
from tunewright.gateway.http import aliases
from tunewright.gateway.http.errors import Forbidden, TooManyRequests
from tunewright.gateway.http.state import State
from tunewright.gateway.keys import KeyRecord, Scope
from tunewright.gateway.versions import ALL_TRAFFIC, Version
from tunewright.v1 import rollout_pb2, rollout_pb2_grpc

_THREADS = 8
_CHANGES = 100


class RolloutService(rollout_pb2_grpc.RolloutServiceServicer):
    """The names, on the wire. Errors are raised and mapped by the chassis's interceptor."""

    def __init__(self, state: State) -> None:
        self._state = state

    def DeployVersion(  # noqa: N802 - gRPC's own naming, here and below
        self, request: rollout_pb2.DeployVersionRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.DeployVersionResponse:
        """File a new version; it comes up in the background."""
        key = self._checked(request.alias, context, Scope.TRAIN)
        body = aliases.Deploy(
            artifact=str(ref_from_proto(request.artifact)),
            base=str(ref_from_proto(request.base)) if request.HasField("base") else None,
            spec=values_of(request.spec),
            weight=request.weight if request.HasField("weight") else ALL_TRAFFIC,
            rules=MessageToDict(request.rules),
            why=request.why,
        )
        version = aliases.file_version(self._state, key, request.alias, body)
        return rollout_pb2.DeployVersionResponse(version=_to_proto(version))

    def Promote(  # noqa: N802
        self, request: rollout_pb2.PromoteRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.PromoteResponse:
        """Give a candidate all traffic, or another share."""
        key = self._checked(request.alias, context, Scope.TRAIN)
        weight = request.weight if request.HasField("weight") else ALL_TRAFFIC
        body = aliases.Promote(version=request.version or None, weight=weight, why=request.why)
        found = self._state.rollouts.promote(request.alias, body.version, body.weight, aliases.cause_of(key, body))
        return rollout_pb2.PromoteResponse(version=_to_proto(found))

    def RollBack(  # noqa: N802
        self, request: rollout_pb2.RollBackRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.RollBackResponse:
        """Take the candidate's traffic away, or bring back the version before."""
        key = self._checked(request.alias, context, Scope.TRAIN)
        body = aliases.RollBack(version=request.version or None, why=request.why)
        found = self._state.rollouts.roll_back(request.alias, body.version, aliases.cause_of(key, body))
        return rollout_pb2.RollBackResponse(version=_to_proto(found))

    def UndeployAlias(  # noqa: N802
        self, request: rollout_pb2.UndeployAliasRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.UndeployAliasResponse:
        """Take the name away."""
        key = self._checked(request.alias, context, Scope.ADMIN)
        body = aliases.Undeploy(why=request.why)
        self._state.rollouts.undeploy(request.alias, aliases.cause_of(key, body))
        return rollout_pb2.UndeployAliasResponse()

    def GetAlias(  # noqa: N802
        self, request: rollout_pb2.GetAliasRequest, context: grpc.ServicerContext
    ) -> rollout_pb2.GetAliasResponse:
        """Return the versions of a name and its newest changes."""
        self._checked(request.alias, context, Scope.TRAIN, Scope.INFER)
        versions = self._state.rollouts.versions
        found = [_to_proto(version) for version in versions.known(request.alias)]
        changes = [_change(item) for item in versions.changes(request.alias, _CHANGES)]
        return rollout_pb2.GetAliasResponse(versions=found, changes=changes)

    def _checked(self, alias: str, context: grpc.ServicerContext, *scopes: Scope) -> KeyRecord:
        key = _key(self._state, context, *scopes)
        aliases.check_project(self._state, alias, key)
        return key


def serve(state: State, listen: str) -> tuple[str, Callable[[], None]]:
    """Listen; return the real host:port, and what ends it.

    Raises:
        TunewrightError: the port is taken.
    """
    server = grpc.server(
        ThreadPoolExecutor(_THREADS), interceptors=[ErrorInterceptor("gateway")], options=[("grpc.so_reuseport", 0)]
    )
    rollout_pb2_grpc.add_RolloutServiceServicer_to_server(RolloutService(state), server)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise TunewrightError(
            f"cannot listen on {listen} for gRPC: {error}", remedy="Choose another TUNEWRIGHT_GRPC_LISTEN, or port 0."
        ) from error
    server.start()
    return f"{listen.rpartition(':')[0]}:{port}", partial(_stop, server)


def _stop(server: grpc.Server) -> None:
    server.stop(grace=1).wait()


def _key(state: State, context: grpc.ServicerContext, *scopes: Scope) -> KeyRecord:
    """Return the record of a call's key, held against its limits as over HTTP."""
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    scheme, _, key = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("send an API key in the call's metadata: `authorization: Bearer YOUR_KEY`")
    record = state.keys.check(key.strip())
    exceeded = state.meter.admit(record)
    if exceeded is not None:
        raise TooManyRequests(f"This key's limit of {exceeded.limit} {exceeded.what} per minute is reached.")
    if not record.may(*scopes):
        raise Forbidden(f"this call needs a key with the scope {' or '.join(scopes)}")
    state.usage.count(record, requests=1)
    return record


def _to_proto(version: Version) -> rollout_pb2.Version:
    state = rollout_pb2.VersionState.Value(f"VERSION_STATE_{version.state.name}")
    return rollout_pb2.Version(
        alias=version.alias,
        number=version.number,
        state=cast("rollout_pb2.VersionState", state),
        weight=version.weight,
        deployment=version.deployment,
        model=ref_to_proto(ArtifactRef.parse(version.model)),
        adapter=ref_to_proto(ArtifactRef.parse(version.adapter)) if version.adapter else None,
        detail=version.detail,
        create_time=timestamp(version.created_at),
    )


def _change(item: dict[str, Any]) -> rollout_pb2.Change:
    return rollout_pb2.Change(
        time=timestamp(item["time"]),
        action=item["action"],
        version=item["version"] or 0,
        who=item["who"],
        why=item["why"],
        data=ParseDict(item["data"], Struct()),
    )
