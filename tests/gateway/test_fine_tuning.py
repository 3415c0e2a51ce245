"""Fine-tuning jobs by the official SDK, on tiny rooms: what may be asked, what is told, and how a job ends."""

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from openai.types.fine_tuning import FineTuningJob
from safetensors.torch import load_file, save_file

from tests.gateway.conftest import MakeGateway
from tests.gateway.processes import BOOTSTRAP_KEY, Gateway
from tunewright.gateway.fine_tuning.checkpoints import as_peft_saves
from tunewright.gateway.fine_tuning.plan import LEARNING_RATES, plan
from tunewright.gateway.fine_tuning.request import CreateJob
from tunewright.gateway.fine_tuning.rows import Found

ENDED = {"succeeded", "failed", "cancelled"}


def row(number: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"What is {number}?"}
    return {"messages": [asked, {"role": "assistant", "content": f"It is {number}."}]}


def pair(number: int) -> dict[str, Any]:
    answers = [[{"role": "assistant", "content": text}] for text in (f"It is {number}.", "Who knows.")]
    asked = {"messages": [{"role": "user", "content": f"What is {number}?"}]}
    return {"input": asked, "preferred_output": answers[0], "non_preferred_output": answers[1]}


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in rows).encode()


@pytest.fixture(scope="module")
def sdk(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0) as client:
        yield client


def upload(sdk: openai.OpenAI, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    return sdk.files.create(file=(name, jsonl(rows)), purpose="fine-tune").id


@pytest.fixture(scope="module")
def rows(sdk: openai.OpenAI) -> str:
    return upload(sdk, [row(number) for number in range(12)])


def steps(number: int) -> dict[str, Any]:
    """Return the extension that makes the tiny trainer count so many tenths of a second."""
    return {"tunewright": {"recipe": {"training": {"max_steps": number}}}}


def wait(sdk: openai.OpenAI, job_id: str, *statuses: str, seconds: float = 60) -> FineTuningJob:
    deadline = time.monotonic() + seconds
    while True:
        job = sdk.fine_tuning.jobs.retrieve(job_id)
        if job.status in statuses:
            return job
        assert job.status not in ENDED, job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)


@pytest.fixture(scope="module")
def done(sdk: openai.OpenAI, rows: str) -> FineTuningJob:
    """A job that succeeded, looked at all the way."""
    job = sdk.fine_tuning.jobs.create(
        model="tiny",
        training_file=rows,
        suffix="My Model",
        seed=7,
        metadata={"team": "a", "kind": "first"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
        extra_body=steps(3),
    )
    assert (job.object, job.status, job.seed, job.training_file) == ("fine_tuning.job", "validating_files", 7, rows)
    seen = [job.status]
    while job.status not in ENDED:
        job = sdk.fine_tuning.jobs.retrieve(job.id)
        if job.status != seen[-1]:
            seen.append(job.status)
        if job.status != "succeeded":
            assert (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.result_files) == (None,) * 3 + ([],)
        time.sleep(0.02)
    order = ["validating_files", "queued", "running", "succeeded"]
    assert seen == [status for status in order if status in seen]
    assert {"validating_files", "running", "succeeded"} <= set(seen)
    return job


def test_a_job_ends_with_a_model_its_tokens_and_a_result_file(sdk: openai.OpenAI, done: FineTuningJob) -> None:
    digits = done.id.removeprefix("ftjob-")[:8]
    assert done.fine_tuned_model == f"ft:tiny:default:my-model:{digits}"
    assert (done.trained_tokens, done.error, done.metadata) == (300, None, {"team": "a", "kind": "first"})
    assert done.finished_at is not None
    assert done.created_at <= done.finished_at
    assert done.hyperparameters.model_dump() == {
        "n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.0,
    }  # fmt: skip
    assert done.method is not None
    assert done.method.supervised is not None
    assert done.organization_id == "org-default"
    (result,) = done.result_files
    described = sdk.files.retrieve(result)
    assert (described.purpose, described.filename) == ("fine-tune-results", "step_metrics.csv")
    table = list(csv.DictReader(sdk.files.content(result).text.splitlines()))
    assert list(table[0])[:2] == ["step", "train_loss"]
    assert [(line["step"], round(float(line["train_loss"]), 2)) for line in table][-1] == ("3", 0.33)
    assert result in [file.id for file in sdk.files.list(purpose="fine-tune-results")]


def test_the_model_is_listed_answers_by_its_name_and_is_gone_after_a_delete(
    sdk: openai.OpenAI, rows: str, done: FineTuningJob
) -> None:
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=rows, seed=8, extra_body=steps(1))
    name = str(wait(sdk, job.id, "succeeded").fine_tuned_model)
    assert name == f"ft:tiny:default::{job.id.removeprefix('ftjob-')[:8]}"
    listed = [model.id for model in sdk.models.list()]
    assert {name, done.fine_tuned_model, "tiny"} <= set(listed)
    assert not [other for other in listed if other.startswith("ftjob-")]
    assert sdk.models.retrieve(name).id == name
    ask: Any = {"messages": [{"role": "user", "content": "hello"}]}
    assert sdk.chat.completions.create(model=name, **ask).model == name
    chunks = list(sdk.chat.completions.create(model=name, stream=True, **ask))
    assert {chunk.model for chunk in chunks} == {name}
    assert sdk.chat.completions.create(model="tiny", **ask).model == "tiny"

    assert sdk.models.delete(name).deleted
    for look in (
        lambda: sdk.models.retrieve(name),
        lambda: sdk.models.delete(name),
        lambda: sdk.chat.completions.create(model=name, **ask),
        lambda: sdk.fine_tuning.jobs.create(model=name, training_file=rows),
    ):
        with pytest.raises(openai.NotFoundError) as gone:
            look()
        assert gone.value.code == "model_not_found"
    assert sdk.fine_tuning.jobs.retrieve(job.id).fine_tuned_model == name
    with pytest.raises(openai.PermissionDeniedError, match="only a tuned model"):
        sdk.models.delete("tiny")
    assert sdk.chat.completions.create(model=str(done.fine_tuned_model), **ask).choices


def test_a_base_with_slashes_in_its_name_is_found_when_they_come_encoded(gateway: Gateway) -> None:
    with gateway.client() as client:
        for path in ("ft%3Aorg%2Fbase%3Adefault%3A%3Anone", "org%2Fbase"):
            answer = client.get(f"/v1/models/{path}")
            assert answer.status_code == httpx.codes.NOT_FOUND
            assert answer.json()["error"]["code"] == "model_not_found"
            assert "/base" in answer.json()["error"]["message"]


def test_events_are_told_newest_first_in_pages_with_the_figures_of_each_step(
    sdk: openai.OpenAI, done: FineTuningJob
) -> None:
    every = list(sdk.fine_tuning.jobs.list_events(done.id, limit=3))
    numbers = [int(event.id.rpartition("-")[2]) for event in every]
    assert numbers == list(range(len(every), 0, -1))
    told = [event.message for event in every]
    assert told[0] == "The job has successfully completed"
    assert told[-1] == f"Created fine-tuning job: {done.id}"
    assert f"Validating training file: {done.training_file}" in told
    assert f"New fine-tuned model created: {done.fine_tuned_model}" in told
    figures: list[Any] = [event.data for event in every if event.type == "metrics"]
    assert figures[0]["step"] == 3
    assert figures[0]["train_loss"] == pytest.approx(1 / 3)
    assert {event.level for event in every} == {"info"}
    first = sdk.fine_tuning.jobs.list_events(done.id, limit=3)
    assert (len(first.data), first.has_more) == (3, True)
    with pytest.raises(openai.NotFoundError):
        sdk.fine_tuning.jobs.list_events(done.id, after="ftevent-none")


def test_jobs_are_listed_newest_first_by_metadata_and_in_pages(
    gateway: Gateway, sdk: openai.OpenAI, rows: str, done: FineTuningJob
) -> None:
    other = sdk.fine_tuning.jobs.create(model="tiny", training_file=rows, metadata={"team": "b"}, extra_body=steps(1))
    plain = sdk.fine_tuning.jobs.create(model="tiny", training_file=rows, extra_body=steps(1))
    listed = [job.id for job in sdk.fine_tuning.jobs.list(limit=1)]
    assert listed[:2] == [plain.id, other.id]
    assert done.id in listed
    assert [job.id for job in sdk.fine_tuning.jobs.list(metadata={"team": "a"})] == [done.id]
    assert not list(sdk.fine_tuning.jobs.list(metadata={"team": "a", "kind": "second"}))
    none = gateway.get("/v1/fine_tuning/jobs", metadata="null")
    assert plain.id in [job["id"] for job in none["data"]]
    assert not {done.id, other.id} & {job["id"] for job in none["data"]}
    with pytest.raises(openai.NotFoundError):
        sdk.fine_tuning.jobs.list(after="ftjob-none")
    for job in (other, plain):
        wait(sdk, job.id, "succeeded")


def test_a_job_is_paused_resumed_and_cancelled_and_then_never_changes(sdk: openai.OpenAI, rows: str) -> None:
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=rows, extra_body=steps(400))
    running = wait(sdk, job.id, "running")
    assert running.finished_at is None
    paused: Any = sdk.fine_tuning.jobs.pause(job.id)
    assert paused.status == "paused"
    wait(sdk, job.id, "paused")
    assert sdk.fine_tuning.jobs.resume(job.id).status == "running"
    cancelled = sdk.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    assert cancelled.finished_at is not None
    deadline = time.monotonic() + 20
    while (job := sdk.fine_tuning.jobs.retrieve(job.id)).model_extra["tunewright"]["state"] != "cancelled":  # type: ignore[index]
        assert job.status == "cancelled"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (job.fine_tuned_model, job.trained_tokens, job.result_files) == (None, None, [])
    for again in (sdk.fine_tuning.jobs.cancel, sdk.fine_tuning.jobs.pause, sdk.fine_tuning.jobs.resume):
        with pytest.raises(openai.ConflictError):
            again(job.id)
    assert sdk.fine_tuning.jobs.retrieve(job.id).status == "cancelled"


def test_a_job_that_fails_says_why(sdk: openai.OpenAI, rows: str) -> None:
    broken: Any = {"tunewright": {"recipe": {"dataprep": {"seed": 13}, "training": {"max_steps": 1}}}}
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=rows, extra_body=broken)
    failed = wait(sdk, job.id, "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.error.param) == ("invalid_training_file", "training_file")
    assert "rows.jsonl:1: no answer" in failed.error.message
    assert failed.fine_tuned_model is None
    assert failed.finished_at is not None


def test_pairs_are_tuned_by_dpo_with_rows_held_out_by_a_file(gateway: Gateway, sdk: openai.OpenAI) -> None:
    training, held_out = (upload(sdk, [pair(n) for n in some]) for some in (range(8), range(8, 12)))
    job = sdk.fine_tuning.jobs.create(
        model="tiny",
        training_file=training,
        validation_file=held_out,
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3, "learning_rate_multiplier": 2}}},
        extra_body=steps(1),
    )
    finished = wait(sdk, job.id, "succeeded")
    assert finished.validation_file == held_out
    assert finished.method is not None
    assert finished.method.dpo is not None
    assert finished.method.dpo.hyperparameters is not None
    assert finished.method.dpo.hyperparameters.beta == 0.3
    recipe = gateway.get(f"/v1/runs/{finished.model_extra['tunewright']['run']}")["recipe"]  # type: ignore[index]
    assert [source.get("use") for source in recipe["data"]] == ["train", "validation"]
    assert recipe["dataprep"]["format"] == "preference"
    training_section = recipe["training"]
    assert training_section["objective"] == "dpo"
    assert training_section["learning_rate"] == pytest.approx(2 * LEARNING_RATES["dpo"])


def test_the_older_form_of_hyperparameters_is_understood(sdk: openai.OpenAI, rows: str) -> None:
    job = sdk.fine_tuning.jobs.create(
        model="tiny",
        training_file=rows,
        hyperparameters={"n_epochs": 4, "batch_size": 6, "learning_rate_multiplier": 0.5},
        extra_body=steps(1),
    )
    assert job.hyperparameters.model_dump() == {"n_epochs": 4, "batch_size": 6, "learning_rate_multiplier": 0.5}
    wait(sdk, job.id, "succeeded")


@pytest.mark.parametrize(("count", "epochs", "batch"), [(4, 25, 1), (10, 10, 1), (33, 4, 4), (34, 3, 4), (5000, 3, 16)])
def test_auto_sees_few_rows_more_often(count: int, epochs: int, batch: int) -> None:
    wanted = CreateJob(model="m", training_file="file-x")
    made = plan("ftjob-1", wanted, Found(rows=count, format="messages"), base_model="m", seed=1)
    assert (made.hyperparameters["n_epochs"], made.hyperparameters["batch_size"]) == (epochs, batch)
    training = made.recipe["training"]
    assert training["per_device_train_batch_size"] * training["gradient_accumulation_steps"] == batch
    assert "learning_rate" not in training


def test_a_checkpoint_answers_by_its_name_as_soon_as_it_is_asked(
    gateway: Gateway, sdk: openai.OpenAI, done: FineTuningJob
) -> None:
    (checkpoint,) = sdk.fine_tuning.jobs.checkpoints.list(done.id)
    assert (checkpoint.object, checkpoint.step_number) == ("fine_tuning.job.checkpoint", 3)
    assert checkpoint.fine_tuning_job_id == done.id
    assert checkpoint.metrics.train_loss == pytest.approx(1 / 3)
    name = checkpoint.fine_tuned_model_checkpoint
    assert name == f"{done.fine_tuned_model}:ckpt-step-3"
    ask: Any = {"messages": [{"role": "user", "content": "hello"}]}
    assert sdk.chat.completions.create(model=name, **ask).model == name
    assert name in [model.id for model in sdk.models.list()]
    deployment = gateway.get(f"/v1/deployments/{done.id}-step-3")
    adapter = gateway.get(f"/v1/artifacts/{done.model_extra['tunewright']['artifacts']['train']}")  # type: ignore[index]
    assert deployment["model"] == adapter["parents"]["base"]
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model=f"{done.fine_tuned_model}:ckpt-step-4", **ask)
    assert not sdk.fine_tuning.jobs.checkpoints.list(done.id, after=checkpoint.id).data


def test_weights_of_a_checkpoint_are_named_as_peft_saves_them(tmp_path: Path) -> None:
    names = {
        "base.q_proj.lora_A.default.weight": "base.q_proj.lora_A.weight",
        "base.q_proj.lora_magnitude_vector.default.weight": "base.q_proj.lora_magnitude_vector",
        "base.norm.modules_to_save.default.weight": "base.norm.weight",
    }
    tensors = {name: torch.full((2, place), float(place)) for place, name in enumerate(names, 1)}
    save_file(tensors, tmp_path / "trained.safetensors")
    as_peft_saves(tmp_path / "trained.safetensors", tmp_path / "adapter.safetensors")
    renamed = load_file(tmp_path / "adapter.safetensors")
    assert set(renamed) == set(names.values())
    assert all(torch.equal(renamed[new], tensors[old]) for old, new in names.items())


def test_files_jobs_and_usage_live_in_postgresql_too(make_gateway: MakeGateway, postgres_url: str) -> None:
    gateway = make_gateway(database_url=postgres_url, executor_id="contract")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0) as sdk:
        file_id = upload(sdk, [row(number) for number in range(3)], "postgres.jsonl")
        job = sdk.fine_tuning.jobs.create(
            model="tiny", training_file=file_id, metadata={"where": "postgres"}, extra_body=steps(1)
        )
        name = str(wait(sdk, job.id, "succeeded").fine_tuned_model)
        assert [found.id for found in sdk.fine_tuning.jobs.list(metadata={"where": "postgres"})] == [job.id]
        ask: Any = {"messages": [{"role": "user", "content": "hello"}]}
        assert sdk.chat.completions.create(model=name, **ask).model == name
        assert sdk.models.delete(name).deleted
        assert sdk.files.delete(file_id).deleted
    (used,) = gateway.get("/v1/usage")["data"]
    assert (used["key_id"], used["input_tokens"], used["output_tokens"]) == ("bootstrap", 1, 1)
