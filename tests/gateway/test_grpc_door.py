"""Public names over gRPC: what /v1/aliases does, with the same keys."""

import time

import grpc
import pytest

from tests.gateway.conftest import MakeGateway
from tests.gateway.processes import BOOTSTRAP_KEY, Gateway, recipe
from tunewright.artifacts import ArtifactRef
from tunewright.chassis.records import ref_to_proto
from tunewright.v1 import inference_pb2, rollout_pb2, rollout_pb2_grpc

KEY = (("authorization", f"Bearer {BOOTSTRAP_KEY}"),)


def _states(stub: rollout_pb2_grpc.RolloutServiceStub) -> list[str]:
    found = stub.GetAlias(rollout_pb2.GetAliasRequest(alias="grpc-bot"), metadata=KEY)
    return [rollout_pb2.VersionState.Name(v.state).removeprefix("VERSION_STATE_") for v in found.versions]


def _wait(stub: rollout_pb2_grpc.RolloutServiceStub, *states: str) -> None:
    deadline = time.monotonic() + 30
    while _states(stub) != list(states):
        assert time.monotonic() < deadline, _states(stub)
        time.sleep(0.05)


def test_a_name_goes_through_its_life_over_grpc(make_gateway: MakeGateway, gateway: Gateway) -> None:
    run = gateway.wait(gateway.submit(recipe("grpc-source", gateway.upload())), "succeeded")
    artifact = ref_to_proto(ArtifactRef.parse(run["artifacts"]["merge"]))
    own = make_gateway(grpc_listen="127.0.0.1:0")
    with grpc.insecure_channel(own.addresses["rollouts"]) as channel:
        stub = rollout_pb2_grpc.RolloutServiceStub(channel)
        deploy = rollout_pb2.DeployVersionRequest(alias="grpc-bot", artifact=artifact)
        for metadata, code in (
            ((), grpc.StatusCode.UNAUTHENTICATED),
            ((("authorization", "Bearer wrong"),), grpc.StatusCode.UNAUTHENTICATED),
            ((("authorization", f"Bearer {own.key('reader', scopes=['infer'])}"),), grpc.StatusCode.PERMISSION_DENIED),
        ):
            time.sleep(1.1)  # the file of keys is looked at once a second
            with pytest.raises(grpc.RpcError) as refused:
                stub.DeployVersion(deploy, metadata=metadata)
            assert refused.value.code() is code
        empty = rollout_pb2.DeployVersionRequest(alias="grpc-bot", artifact=artifact, weight=101)
        for metadata, code in (((), grpc.StatusCode.UNAUTHENTICATED), (KEY, grpc.StatusCode.INVALID_ARGUMENT)):
            with pytest.raises(grpc.RpcError) as refused:  # the key is looked at before what is asked for
                stub.DeployVersion(empty, metadata=metadata)
            assert refused.value.code() is code
        assert stub.DeployVersion(deploy, metadata=KEY).version.number == 1
        _wait(stub, "SERVING")
        deploy.weight = 25
        deploy.spec.CopyFrom(inference_pb2.DeploymentSpec(max_num_seqs=2))
        deploy.rules.update({"window_seconds": 3600})
        stub.DeployVersion(deploy, metadata=KEY)
        _wait(stub, "SERVING", "CANARY")
        for wrong in ({"weight": 0}, {"why": "x" * 1001}):
            with pytest.raises(grpc.RpcError) as refused:  # as over HTTP
                stub.Promote(rollout_pb2.PromoteRequest(alias="grpc-bot", **wrong), metadata=KEY)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        stub.Promote(rollout_pb2.PromoteRequest(alias="grpc-bot", why="good"), metadata=KEY)
        _wait(stub, "RETIRED", "SERVING")
        stub.RollBack(rollout_pb2.RollBackRequest(alias="grpc-bot"), metadata=KEY)
        _wait(stub, "SERVING", "RETIRED")
        stub.UndeployAlias(rollout_pb2.UndeployAliasRequest(alias="grpc-bot", why="done"), metadata=KEY)
        found = stub.GetAlias(rollout_pb2.GetAliasRequest(alias="grpc-bot"), metadata=KEY)
        assert (found.changes[0].action, found.changes[0].who, found.changes[0].why) == (
            "undeploy", "key bootstrap", "done"
        )  # fmt: skip
        assert own.get("/v1/aliases/grpc-bot")["versions"][1]["spec"] == {"max_num_seqs": 2}
