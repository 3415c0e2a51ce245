"""What the stages ask of their rooms."""

import time

import pytest

from tests.gateway.processes import Process, recipe
from tunewright.artifacts import ArtifactRef, Kind
from tunewright.chassis.errors import NotFound, OutOfResources, Unavailable
from tunewright.gateway import stages
from tunewright.gateway.clients import Rooms
from tunewright.gateway.recipe import parse
from tunewright.gateway.settings import GatewaySettings
from tunewright.gateway.stages import JOB_STAGES, Inputs

REFS = {
    "dataset": ArtifactRef(Kind.DATASET, "1" * 64),
    "base": ArtifactRef(Kind.MODEL, "2" * 64),
    "tuned": ArtifactRef(Kind.MODEL, "3" * 64),
    "model": ArtifactRef(Kind.MODEL, "2" * 64),
}


@pytest.fixture
def stubs(rooms: dict[str, Process]) -> Rooms:
    addresses = {f"{name}_address": process.addresses["grpc"] for name, process in rooms.items()}
    return Rooms(GatewaySettings(**addresses))  # type: ignore[arg-type] # by name


@pytest.mark.parametrize(
    ("name", "error"), [("recovering", Unavailable), ("hopeless", OutOfResources), ("unknown", NotFound)]
)
def test_an_evaluation_is_asked_for_only_while_its_deployments_answer(
    stubs: Rooms, name: str, error: type[Exception]
) -> None:
    wanted = parse(recipe(name, f"file-{'a' * 64}"))
    if name != "unknown":
        stages.deploy(stubs, wanted, wanted.base_name, Inputs(REFS))
    time.sleep(0.4)
    with pytest.raises(error):
        JOB_STAGES["evaluate"].submit(stubs, wanted, Inputs(REFS))
    stubs.close()


@pytest.mark.parametrize(("training", "own", "judged_by"), [(77, None, 77), (77, 55, 55), (None, 55, 55)])
def test_rows_are_judged_by_the_length_of_training_unless_another_is_given(
    training: int | None, own: int | None, judged_by: int
) -> None:
    sections = {
        "training": {} if training is None else {"max_length": training},
        "dataprep": {} if own is None else {"audit": {"max_length": own}},
    }
    wanted = parse(recipe("long-bot", f"file-{'a' * 64}") | sections)
    assert stages.dataprep_spec(wanted).audit.max_length == judged_by


def test_a_hub_that_is_down_is_no_mistake_of_the_recipe(stubs: Rooms) -> None:
    wanted = parse({**recipe("hub-bot", f"file-{'a' * 64}"), "base_model": "hub/down"})
    with pytest.raises(Unavailable, match="hub does not answer"):
        stages.validate(stubs, wanted)
    stubs.close()
