"""Runs over HTTP, from recipe to public name."""

import json
import time

import httpx
import pytest

from tests.gateway.processes import Gateway, recipe

STAGES = ["import", "prepare", "train", "merge", "deploy_base", "deploy_tuned", "evaluate", "promote"]


@pytest.fixture(scope="module")
def finished(gateway: Gateway) -> dict[str, object]:
    """A run that succeeded."""
    run_id = gateway.submit(recipe("first-bot", gateway.upload(), dataprep={"seed": 1}))
    found: dict[str, object] = gateway.wait(run_id, "succeeded")
    return found


def test_a_run_goes_through_all_stages_in_order_and_ends_in_a_public_name(finished: dict[str, object]) -> None:
    assert [stage["name"] for stage in finished["stages"]] == STAGES  # type: ignore[attr-defined]
    assert {stage["state"] for stage in finished["stages"]} == {"succeeded"}  # type: ignore[attr-defined]
    started = [stage["started_at"] for stage in finished["stages"]]  # type: ignore[attr-defined]
    assert started == sorted(started)
    assert finished["model"] == "first-bot"
    assert finished["failure"] is None


def test_a_model_whose_every_weight_was_trained_is_not_merged(gateway: Gateway) -> None:
    run = gateway.wait(
        gateway.submit(recipe("whole-bot", gateway.upload(), training={"method": "full", "max_steps": 1})), "succeeded"
    )
    assert [stage["name"] for stage in run["stages"] if stage["state"] == "succeeded"] == STAGES
    assert run["artifacts"]["merge"] == run["artifacts"]["train"]
    assert next(stage for stage in run["stages"] if stage["name"] == "merge")["job_id"] is None


def test_data_are_prepared_for_the_base_and_the_length_that_will_be_trained(gateway: Gateway) -> None:
    wanted = recipe("long-bot", gateway.upload(), training={"max_length": 77})
    run = gateway.wait(gateway.submit(wanted), "succeeded")
    dataset = gateway.get(f"/v1/artifacts/{run['artifacts']['prepare']}")
    assert dataset["parents"]["base"] == run["artifacts"]["import"]
    assert dataset["spec"]["audit"]["max_length"] == 77


def test_the_evaluator_is_told_where_base_and_candidate_answer(gateway: Gateway, finished: dict[str, object]) -> None:
    report = finished["artifacts"]["evaluate"]  # type: ignore[index]
    tuned = finished["artifacts"]["merge"].split("/")[1]  # type: ignore[index]
    targets = gateway.get(f"/v1/artifacts/{report}/files/logs/targets.json")
    assert targets["base"]["name"] == "first-bot-base"
    assert targets["tuned"]["name"] == f"first-bot-{tuned[:12]}"
    assert targets["tuned"]["endpoint"].startswith("http://127.0.0.1:")


def test_events_are_numbered_without_gaps_and_a_cursor_replays_the_rest(
    gateway: Gateway, finished: dict[str, object]
) -> None:
    events = gateway.events(str(finished["id"]))
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "run"
    assert events[-1]["data"]["state"] == "succeeded"
    steps = [event["data"]["step"] for event in events if event["stage"] == "train" and event["type"] == "progress"]
    assert steps[-1] == 2
    assert gateway.events(str(finished["id"]), after=7) == events[7:]


def test_a_lost_event_stream_goes_on_after_its_last_event_id(gateway: Gateway, finished: dict[str, object]) -> None:
    with gateway.client() as client:
        answer = client.get(f"/v1/runs/{finished['id']}/events", headers={"Last-Event-ID": "5"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    first = answer.text.split("\n\n")[0].splitlines()
    assert first[0] == "id: 6"
    assert json.loads(first[2].removeprefix("data: "))["sequence"] == 6


def test_the_same_recipe_again_finds_everything_finished(gateway: Gateway, finished: dict[str, object]) -> None:
    again = gateway.wait(gateway.submit(finished["recipe"]), "succeeded")  # type: ignore[arg-type]
    assert again["artifacts"] == finished["artifacts"]
    reused = [event["stage"] for event in gateway.events(again["id"]) if event["type"] == "reused"]
    assert reused == ["import", "prepare", "train", "merge", "evaluate"]


def test_a_new_version_takes_the_public_name_and_the_old_one_is_stopped(
    gateway: Gateway, finished: dict[str, object]
) -> None:
    changed = {**finished["recipe"], "training": {"max_steps": 3}}  # type: ignore[dict-item]
    run = gateway.wait(gateway.submit(changed), "succeeded")
    old, new = (f"first-bot-{r['artifacts']['merge'].split('/')[1][:12]}" for r in (finished, run))  # type: ignore[index]
    states = {item["name"]: item["state"] for item in gateway.get("/v1/deployments")["data"]}
    assert states[old] == "stopped"
    assert states[new] == "ready"
    assert gateway.get("/v1/models/first-bot")["tunewright"]["deployment"] == new


def test_a_base_in_the_store_is_not_imported_again(gateway: Gateway, finished: dict[str, object]) -> None:
    base = finished["artifacts"]["import"]  # type: ignore[index]
    wanted = {**finished["recipe"], "name": "based-bot", "base_model": base}  # type: ignore[dict-item]
    run = gateway.wait(gateway.submit(wanted), "succeeded")
    assert [stage["name"] for stage in run["stages"]] == STAGES[1:]
    assert run["artifacts"]["train"] == finished["artifacts"]["train"]  # type: ignore[index]


def test_a_failed_run_says_stage_reason_message_and_remedy(gateway: Gateway) -> None:
    run = gateway.wait(gateway.submit(recipe("broken-bot", gateway.upload(), dataprep={"seed": 13})), "failed")
    assert run["failure"]["stage"] == "prepare"
    assert run["failure"]["reason"] == "INVALID_DATA"
    assert run["failure"]["message"] == "rows.jsonl:1: no answer"
    assert run["failure"]["remedy"] == "Give the row an answer."
    states = {stage["name"]: stage["state"] for stage in run["stages"]}
    assert states["import"] == "succeeded"
    assert states["prepare"] == "failed"
    assert states["train"] == "pending"
    assert gateway.events(run["id"])[-1]["data"]["failure"]["reason"] == "INVALID_DATA"


def test_a_deployment_that_fails_fails_the_run_and_leaves_nothing_running(gateway: Gateway) -> None:
    run = gateway.wait(gateway.submit(recipe("hopeless", gateway.upload())), "failed")
    assert run["failure"]["stage"] == "deploy_base"
    assert run["failure"]["reason"] == "OUT_OF_RESOURCES"
    states = {item["name"]: item["state"] for item in gateway.get("/v1/deployments")["data"]}
    assert states["hopeless-base"] == "stopped"


def test_an_engine_that_keeps_dying_fails_the_run_instead_of_being_deployed_for_ever(gateway: Gateway) -> None:
    run = gateway.wait(gateway.submit(recipe("dying", gateway.upload())), "failed")
    assert run["failure"]["stage"] == "deploy_base"
    assert run["failure"]["message"] == "given up"


def test_cancelling_stops_the_job_and_the_run(gateway: Gateway) -> None:
    run_id = gateway.submit(recipe("slow-bot", gateway.upload(), training={"max_steps": 500}))
    run = gateway.wait(run_id, stage="train")
    assert gateway.post(f"/v1/runs/{run_id}/cancel")["state"] in {"cancelling", "cancelled"}
    run = gateway.wait(run_id, "cancelled", seconds=20)
    assert [stage["state"] for stage in run["stages"]][:3] == ["succeeded", "succeeded", "cancelled"]
    events = gateway.events(run_id)
    assert any(event["data"].get("job_state") == "cancelled" for event in events)
    with gateway.client() as client:
        assert client.post(f"/v1/runs/{run_id}/cancel").status_code == httpx.codes.CONFLICT


def test_a_paused_run_lets_go_of_the_gpu_and_goes_on_in_the_same_job(gateway: Gateway) -> None:
    file_id = gateway.upload()
    run_id = gateway.submit(recipe("pausing-bot", file_id, training={"max_steps": 30, "seed": 41}))
    job = gateway.wait(run_id, stage="train")["stages"][2]["job_id"]
    assert gateway.post(f"/v1/runs/{run_id}/pause")["state"] in {"pausing", "paused"}
    run = gateway.wait(run_id, "paused", seconds=20)
    assert [stage["state"] for stage in run["stages"]][:4] == ["succeeded", "succeeded", "paused", "pending"]
    assert gateway.post(f"/v1/runs/{run_id}/pause")["state"] == "paused"

    other = gateway.submit(recipe("other-bot", file_id, training={"max_steps": 2, "seed": 42}))
    gateway.wait(other, "succeeded")
    assert gateway.get(f"/v1/runs/{run_id}")["state"] == "paused"

    assert gateway.post(f"/v1/runs/{run_id}/resume")["state"] == "running"
    run = gateway.wait(run_id, "succeeded")
    assert run["stages"][2]["job_id"] == job
    told = [event["data"]["state"] for event in gateway.events(run_id) if event["type"] == "run"]
    assert told == ["queued", "running", "pausing", "paused", "running", "succeeded"]
    with gateway.client() as client:
        assert client.post(f"/v1/runs/{run_id}/pause").status_code == httpx.codes.CONFLICT
        answer = client.post(f"/v1/runs/{run_id}/resume")
        assert answer.status_code == httpx.codes.CONFLICT
        assert "succeeded" in answer.json()["error"]["message"]


def test_a_run_that_is_resumed_while_its_job_is_still_stopping_goes_on(gateway: Gateway) -> None:
    run_id = gateway.submit(recipe("hasty-bot", gateway.upload(), training={"max_steps": 30, "seed": 43}))
    gateway.wait(run_id, stage="train")
    gateway.post(f"/v1/runs/{run_id}/pause")
    assert gateway.post(f"/v1/runs/{run_id}/resume")["state"] == "running"
    gateway.wait(run_id, "succeeded")


def test_a_paused_run_is_cancelled(gateway: Gateway) -> None:
    run_id = gateway.submit(recipe("given-up-bot", gateway.upload(), training={"max_steps": 500, "seed": 44}))
    gateway.wait(run_id, stage="train")
    gateway.post(f"/v1/runs/{run_id}/pause")
    gateway.wait(run_id, "paused", seconds=20)
    gateway.post(f"/v1/runs/{run_id}/cancel")
    run = gateway.wait(run_id, "cancelled", seconds=20)
    assert [stage["state"] for stage in run["stages"]][:3] == ["succeeded", "succeeded", "cancelled"]


def test_one_gpu_stage_runs_at_a_time_and_a_waiting_one_is_cancelled_at_once(gateway: Gateway) -> None:
    file_id = gateway.upload()
    busy = gateway.submit(recipe("busy-bot", file_id, training={"max_steps": 400, "seed": 5}))
    gateway.wait(busy, stage="train")
    waiting = gateway.submit(recipe("waiting-bot", file_id, training={"max_steps": 2, "seed": 6}))
    while [stage["state"] for stage in gateway.get(f"/v1/runs/{waiting}")["stages"]][1] != "succeeded":
        time.sleep(0.1)
    time.sleep(1.5)  # several looks of the queue
    train = gateway.get(f"/v1/runs/{waiting}")["stages"][2]
    assert train["state"] == "pending"
    gateway.post(f"/v1/runs/{waiting}/cancel")
    gateway.wait(waiting, "cancelled", seconds=10)
    assert gateway.get(f"/v1/runs/{busy}")["state"] == "running"
    gateway.post(f"/v1/runs/{busy}/cancel")
    gateway.wait(busy, "cancelled", seconds=20)


def test_a_name_has_one_unfinished_run_and_an_idempotency_key_starts_one(gateway: Gateway) -> None:
    wanted = {"recipe": recipe("once-bot", gateway.upload(), training={"max_steps": 300, "seed": 7})}
    with gateway.client() as client:
        first = client.post("/v1/runs", json=wanted, headers={"Idempotency-Key": "k"})
        again = client.post("/v1/runs", json=wanted, headers={"Idempotency-Key": "k"})
        clash = client.post("/v1/runs", json=wanted)
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        assert clash.status_code == httpx.codes.CONFLICT
        assert "once-bot" in clash.json()["error"]["message"]
        client.post(f"/v1/runs/{first.json()['id']}/cancel")
    gateway.wait(first.json()["id"], "cancelled", seconds=20)


def test_runs_are_listed_newest_first_in_pages(gateway: Gateway, finished: dict[str, object]) -> None:
    first = gateway.get("/v1/runs", limit=2)
    assert len(first["data"]) == 2
    assert first["has_more"] is True
    rest = gateway.get("/v1/runs", limit=100, after=first["last_id"])
    created = [run["created_at"] for run in first["data"] + rest["data"]]
    assert created == sorted(created, reverse=True)
    assert finished["id"] in [run["id"] for run in rest["data"]]


@pytest.mark.parametrize(
    ("sections", "param", "says"),
    [
        ({"training": {"lora_rank": 8}}, "training.lora_rank", "did you mean 'lora_r'?"),
        ({"training": {"lora_r": "many"}}, "training.lora_r", "a whole number is expected"),
        ({"training": {"learning_rate": 7}}, "training.learning_rate", "less than or equal to 1"),
        (
            {"dataprep": {"split": {"validation_fraction": 0.9}}},
            "dataprep.split.validation_fraction",
            "less than or equal to 0.5",
        ),
        ({"merging": {"probe_count": 0}}, "merging.probe_count", "greater than or equal to 1"),
        ({"deployment": {"max_num_seqs": 9999}}, "deployment.max_num_seqs", "at most 1000"),
        ({"training": {"method": "prompt_tuning"}}, "training.method", "vLLM serves no soft prompts"),
        ({"base_model": "unknown/model"}, "base_model", "no model 'unknown/model'"),
        ({"base_model": f"models/{'1' * 64}"}, "base_model", "holds no artifact models/1111"),
        ({"data": [{"file": f"file-{'0' * 64}"}]}, "data[0].file", "there is no file"),
    ],
)
def test_a_wrong_recipe_is_refused_at_once_with_the_path_of_the_field(
    gateway: Gateway, sections: dict[str, object], param: str, says: str
) -> None:
    wanted = {**recipe("wrong-bot", gateway.upload()), **sections}
    with gateway.client() as client:
        answer = client.post("/v1/runs", json={"recipe": wanted})
    assert answer.status_code == httpx.codes.BAD_REQUEST
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert says in error["message"]
    assert says in error["tunewright"]["violations"][0]["description"]


def test_a_recipe_can_be_checked_without_a_run_and_may_be_yaml(gateway: Gateway) -> None:
    text = f"name: yaml-bot\nbase_model: tiny\ndata:\n  - file: {gateway.upload()}\ntraining: {{learning_rate: 2e-4}}\n"
    checked = gateway.post("/v1/runs", {"recipe": text, "validate_only": True})
    assert checked["recipe"]["training"] == {"learning_rate": 0.0002}
    assert "yaml-bot" not in [run["name"] for run in gateway.get("/v1/runs", limit=100)["data"]]
