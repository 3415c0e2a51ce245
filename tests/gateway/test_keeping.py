"""A serving version that inference does not serve any more: deployed again, but never in the middle of a swap."""

from types import SimpleNamespace
from typing import Any

import pytest

from tunewright.gateway.rollouts import Rollouts
from tunewright.gateway.versions import VersionState
from tunewright.v1 import inference_pb2

MODEL = f"models/{'a' * 64}"


def _version(number: int, state: VersionState) -> Any:  # noqa: ANN401 - a stand-in
    return SimpleNamespace(
        alias="bot",
        number=number,
        deployment=f"bot-v{number}",
        model=MODEL,
        adapter=None,
        spec={},
        state=state,
        weight=100,
    )


@pytest.mark.parametrize(
    ("absent", "candidate", "deployed"),
    [
        (True, None, ["bot-v1"]),
        (False, None, []),
        (True, VersionState.STARTING, []),
        (True, VersionState.FAILED, ["bot-v1"]),
    ],
)
def test_a_serving_version_that_inference_lost_is_deployed_again_unless_a_swap_is_under_way(
    absent: bool,  # noqa: FBT001 - a parameter of the test
    candidate: VersionState | None,
    deployed: list[str],
) -> None:
    serving, asked = _version(1, VersionState.SERVING), []
    known = [serving] + ([_version(2, candidate)] if candidate else [])

    def call(_room: object, _method: object, request: inference_pb2.DeployRequest) -> object:
        asked.append(request.name)
        return SimpleNamespace(deployment=inference_pb2.Deployment(name=request.name))

    stopped = inference_pb2.Deployment(state=inference_pb2.DEPLOYMENT_STATE_STOPPED)
    parts: Any = (
        SimpleNamespace(of=lambda _: known),
        SimpleNamespace(call=call, deployment=lambda _: stopped, inference=SimpleNamespace(Deploy=None)),
        SimpleNamespace(table=lambda: {"bot": SimpleNamespace(absent=absent, version=1)}),
        None,
        None,
    )
    Rollouts(*parts)._look(serving)
    assert asked == deployed
