"""Malformed files and requests: the right code, a message that names line and field, and a server that lives on."""

import json
from typing import Any

import httpx
import pytest

from tests.gateway.processes import Gateway
from tests.gateway.test_fine_tuning import jsonl, pair, row

GOOD = jsonl([row(number) for number in range(2)])
ASKED = {"role": "user", "content": "What?"}
ANSWERED = {"role": "assistant", "content": "That."}


def third(value: Any) -> bytes:  # noqa: ANN401 - JSON, or a line as it stands
    """Return two good lines and then this one."""
    return GOOD + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n"


def turns(*messages: Any) -> bytes:  # noqa: ANN401 - JSON
    return third({"messages": [*messages]})


def dpo(**change: Any) -> bytes:  # noqa: ANN401 - JSON
    return jsonl([pair(0), pair(1)]) + json.dumps({**pair(2), **change}).encode()


FILES: list[tuple[str, bytes, str, str]] = [
    ("cut off", third(b'{"messages": [{"role": "user"'), "supervised", "line 3: not JSON"),
    ("no object", third([1, 2]), "supervised", "line 3: an object is expected, found a list"),
    ("words", third(b"hello there"), "supervised", "line 3: not JSON"),
    ("not a number", third(b'{"messages": NaN}'), "supervised", "line 3: not JSON (NaN"),
    ("not UTF-8", third(b'{"messages": "caf\xe9"}'), "supervised", "line 3: byte 17 is no UTF-8"),
    ("endless nesting", third(b"[" * 50_000), "supervised", "line 3: not JSON"),
    ("blank", b"\n \n\t\n", "supervised", "it has no rows"),
    ("one row", jsonl([row(0)]), "supervised", "one row is too few"),
    ("no messages", third({"text": "hello"}), "supervised", "line 3: messages: a list of messages is expected"),
    ("messages are text", third({"messages": "hi"}), "supervised", "line 3: messages: a list of messages"),
    ("messages are empty", third({"messages": []}), "supervised", "line 3: messages: a list of messages is expected"),
    ("a message is text", turns("hi", ANSWERED), "supervised", "line 3: messages[0]: an object is expected"),
    ("no role", turns({"content": "x"}, ANSWERED), "supervised", "line 3: messages[0].role: one of"),
    ("unknown role", turns({**ASKED, "role": "bot"}, ANSWERED), "supervised", "messages[0].role: one of"),
    ("no content", turns({"role": "user"}, ANSWERED), "supervised", "line 3: messages[0].content: text is expected"),
    ("content is a number", turns({**ASKED, "content": 5}, ANSWERED), "supervised", "messages[0].content: text"),
    ("an image", turns({**ASKED, "content": [{"type": "image_url"}]}, ANSWERED), "supervised", "content[0]: a part of"),
    ("empty answer", turns(ASKED, {**ANSWERED, "content": " "}), "supervised", "messages[1].content: an answer"),
    ("ends with the user", turns(ASKED, ANSWERED, ASKED), "supervised", "line 3: messages[2].role: the last message"),
    ("a weight of a half", turns(ASKED, {**ANSWERED, "weight": 0.5}), "supervised", "messages[1].weight: 0 or 1"),
    ("the user's weight", turns({**ASKED, "weight": 1}, ANSWERED), "supervised", "messages[0].weight: only the"),
    ("nothing to learn", turns(ASKED, {**ANSWERED, "weight": 0}), "supervised", "every assistant message has weight 0"),
    ("two kinds", third({"prompt": "a", "completion": "b"}), "supervised", "rows of one kind are expected"),
    ("pairs", jsonl([pair(0), pair(1)]), "supervised", "line 1: messages: missing; a row with `input`"),
    ("no pairs", GOOD, "dpo", "line 1: input: an object with `messages`"),
    ("no second answer", dpo(non_preferred_output=None), "dpo", "line 3: non_preferred_output: a list of messages"),
    ("two answers", dpo(preferred_output=[ANSWERED, ANSWERED]), "dpo", "line 3: preferred_output: one message"),
    ("the same answers", dpo(non_preferred_output=pair(2)["preferred_output"]), "dpo", "nothing to prefer"),
]
FILE = "file-" + "0" * 64
REQUESTS: list[tuple[dict[str, Any], int, str]] = [
    ({"training_file": FILE}, 400, "training_file"),
    ({"training_file": "nonsense"}, 400, "training_file"),
    ({"training_file": None}, 400, "training_file"),
    ({"validation_file": FILE}, 400, "validation_file"),
    ({"model": "unknown/model"}, 404, "model"),
    ({"model": 7}, 400, "model"),
    ({"suffix": ""}, 400, "suffix"),
    ({"suffix": "x" * 65}, 400, "suffix"),
    ({"suffix": "a:b"}, 400, "suffix"),
    ({"seed": -1}, 400, "seed"),
    ({"seed": "7"}, 400, "seed"),
    ({"metadata": {f"k{n}": "v" for n in range(17)}}, 400, "metadata"),
    ({"metadata": {"k": 7}}, 400, "metadata.k"),
    ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, 400, "integrations"),
    ({"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": 51}}, 400, "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": 257}}, 400, "hyperparameters.batch_size"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}}, 400, "hyperparameters.learning_rate_multiplier"),
    ({"hyperparameters": {"learning_rate_multiplier": 9999}}, 400, "learning_rate_multiplier"),
    ({"hyperparameters": {"beta": 1}}, 400, "hyperparameters.beta"),
    ({"method": {"type": "reinforcement"}}, 400, "method.type"),
    (
        {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}},
        400,
        "method.dpo.hyperparameters.beta",
    ),
    ({"method": {"type": "supervised", "dpo": {}}}, 400, "method"),
    ({"wish": 1}, 400, "wish"),
    ({"tunewright": {"recipe": {"training": {"lora_rank": 4}}}}, 400, "tunewright.recipe.training.lora_rank"),
    ({"tunewright": {"recipe": {"name": "x"}}}, 400, "tunewright.recipe.name"),
]


@pytest.mark.parametrize(("data", "kind", "says"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_malformed_file_is_refused_by_line_and_field(gateway: Gateway, data: bytes, kind: str, says: str) -> None:
    with gateway.client() as client:
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("bad.jsonl", data)}}
        file_id = client.post("/v1/files", **form).json()["id"]  # type: ignore[arg-type]
        body = {"model": "tiny", "training_file": file_id, "method": {"type": kind}}
        answer = client.post("/v1/fine_tuning/jobs", json=body)
        assert answer.status_code == httpx.codes.BAD_REQUEST, answer.text
        error = answer.json()["error"]
        assert says in error["message"]
        assert error["param"] == "training_file"
        assert client.get("/healthz").is_success
        client.delete(f"/v1/files/{file_id}")


@pytest.mark.parametrize(("change", "status", "param"), REQUESTS)
def test_a_malformed_request_is_refused_by_its_field(
    gateway: Gateway, change: dict[str, Any], status: int, param: str
) -> None:
    file_id = gateway.upload(GOOD.decode(), "good.jsonl")
    with gateway.client() as client:
        answer = client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file_id, **change})
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert {"message", "type", "param", "code"} <= set(error)
        assert error["param"] == param
        assert param.rpartition(".")[2] in error["message"]
        assert client.get("/healthz").is_success


def test_a_file_of_another_purpose_and_a_stranger_s_are_no_training_files(gateway: Gateway) -> None:
    with gateway.client() as client:
        form = {"data": {"purpose": "evals"}, "files": {"file": ("good.jsonl", GOOD)}}
        file_id = client.post("/v1/files", **form).json()["id"]  # type: ignore[arg-type]
        answer = client.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file_id})
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert "purpose 'fine-tune' is expected, found 'evals'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("action", ["", "/events", "/checkpoints", "/cancel", "/pause", "/resume"])
def test_an_unknown_job_is_404_everywhere(gateway: Gateway, action: str) -> None:
    method = "GET" if action in {"", "/events", "/checkpoints"} else "POST"
    with gateway.client() as client:
        answer = client.request(method, f"/v1/fine_tuning/jobs/ftjob-none{action}")
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert answer.json()["error"]["param"] == "id"
