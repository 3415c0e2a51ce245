"""What a crash costs: a run goes on where it was, whoever was killed."""

import time

import pytest

from tests.gateway.conftest import MakeGateway
from tests.gateway.processes import Gateway, Process, recipe
from tests.postgres import postgresql
from tunewright.gateway.database import Database
from tunewright.gateway.journal import Journal


def _jobs_started(process: Gateway, run_id: str, stage: str) -> int:
    """Return how often the stage's process was started, over all its attempts."""
    events = process.events(run_id)
    return sum(e["type"] == "state" and e["message"].startswith("running") and e["stage"] == stage for e in events)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_gateway_killed_in_the_middle_of_a_stage_finishes_the_run_without_repeating_stages(
    make_gateway: MakeGateway, request: pytest.FixtureRequest, database: str
) -> None:
    settings = {} if database == "sqlite" else {"database_url": request.getfixturevalue("postgres_url")}
    gateway = make_gateway(**settings)
    seed = {"seed": 100 + len(database), "max_steps": 30}
    run_id = gateway.submit(recipe(f"{database}-bot", gateway.upload(), training=seed))
    gateway.wait(run_id, stage="train")
    before = gateway.get(f"/v1/runs/{run_id}")

    gateway.kill()
    time.sleep(0.5)
    gateway.start()

    after = gateway.wait(run_id, "succeeded")
    for index in (0, 1):
        assert after["stages"][index] == before["stages"][index]
    assert _jobs_started(gateway, run_id, "train") == 1
    events = gateway.events(run_id)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    steps = [e["data"]["step"] for e in events if e["type"] == "progress" and e["stage"] == "train"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 30


def test_a_room_killed_in_the_middle_of_its_stage_is_waited_for(
    make_gateway: MakeGateway, rooms: dict[str, Process]
) -> None:
    gateway = make_gateway()
    run_id = gateway.submit(recipe("patient-bot", gateway.upload(), training={"max_steps": 40, "seed": 200}))
    gateway.wait(run_id, stage="train")

    rooms["trainer"].kill()
    time.sleep(2)
    assert gateway.get(f"/v1/runs/{run_id}")["state"] == "running"
    rooms["trainer"].start()

    gateway.wait(run_id, "succeeded")
    waiting = [event for event in gateway.events(run_id) if event["type"] == "waiting"]
    assert waiting
    assert "trainer at 127.0.0.1:" in waiting[0]["message"]
    assert waiting[0]["severity"] == "warning"


def test_a_run_waits_for_its_database(make_gateway: MakeGateway) -> None:
    with postgresql() as url:
        gateway = make_gateway(database_url=url)
        run_id = gateway.submit(recipe("database-bot", gateway.upload(), training={"max_steps": 30, "seed": 300}))
        gateway.wait(run_id, stage="train")
    with gateway.client() as client:
        down = client.get(f"/v1/runs/{run_id}")
        health = client.get("/healthz")
    assert down.status_code == 503
    assert down.headers["retry-after"] == "2"
    assert "database does not answer" in down.json()["error"]["message"]
    assert health.status_code == 503


def test_sigterm_ends_event_streams_and_lets_answers_finish(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    run_id = gateway.submit(recipe("draining-bot", gateway.upload(), training={"max_steps": 30, "seed": 400}))
    gateway.wait(run_id, stage="train")
    with gateway.client() as client, client.stream("GET", f"/v1/runs/{run_id}/events") as events:
        lines = events.iter_lines()
        next(lines)
        began = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - began < 5
        list(lines)
    gateway.start()
    assert gateway.get(f"/v1/runs/{run_id}")["state"] == "running"
    gateway.wait(run_id, "succeeded")


def test_a_run_cancelled_while_the_gateway_is_told_to_die_stays_cancelled(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    run_id = gateway.submit(recipe("cancel-bot", gateway.upload(), training={"max_steps": 500, "seed": 500}))
    gateway.wait(run_id, stage="train")
    gateway.post(f"/v1/runs/{run_id}/cancel")
    gateway.kill()
    gateway.start()
    run = gateway.wait(run_id, "cancelled")
    assert run["stages"][2]["state"] == "cancelled"
    assert run["failure"]["reason"] == "CANCELLED"


def test_a_run_paused_while_the_gateway_is_killed_stays_paused_until_it_is_resumed(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    run_id = gateway.submit(recipe("pause-bot", gateway.upload(), training={"max_steps": 30, "seed": 501}))
    gateway.wait(run_id, stage="train")
    gateway.post(f"/v1/runs/{run_id}/pause")
    gateway.kill()
    gateway.start()
    gateway.wait(run_id, "paused")
    gateway.kill()
    gateway.start()
    time.sleep(2)
    assert gateway.get(f"/v1/runs/{run_id}")["state"] == "paused"
    gateway.post(f"/v1/runs/{run_id}/resume")
    gateway.wait(run_id, "succeeded")


def test_a_run_that_was_filed_and_not_started_is_started(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    file_id = gateway.upload()
    gateway.kill()
    names = ["import", "prepare", "train", "merge", "deploy_base", "deploy_tuned", "evaluate", "promote"]
    database = Database(f"sqlite:///{gateway.folder}/gateway.sqlite")
    document = recipe("filed-bot", file_id, training={"max_steps": 1, "seed": 600})
    Journal(database).create("run-filed", name="filed-bot", owner="me", recipe=document, stages=names, limit=10)
    database.close()
    gateway.start()
    run = gateway.wait("run-filed", "succeeded")
    assert [stage["state"] for stage in run["stages"]] == ["succeeded"] * len(names)
