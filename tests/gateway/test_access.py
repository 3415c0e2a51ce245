"""Keys: what each may do, what each project sees, what each key may use."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.gateway.processes import Gateway, recipe
from tunewright.gateway.keys import KeyRecord, Limits
from tunewright.gateway.meter import Meter

ADA, BOB = "ada-project", "bob-project"


@pytest.fixture(scope="module")
def keys(gateway: Gateway) -> dict[str, str]:
    made = {
        "ada": gateway.key("ada-all", project=ADA),
        "bob": gateway.key("bob-all", project=BOB),
        "train": gateway.key("ada-train", project=ADA, scopes=["train"]),
        "infer": gateway.key("ada-infer", project=ADA, scopes=["infer"]),
        "slow": gateway.key("ada-slow", project=ADA, limits=Limits(requests_per_minute=3)),
        "terse": gateway.key("ada-terse", project=ADA, limits=Limits(tokens_per_minute=2)),
        "small": gateway.key("ada-small", project=ADA, limits=Limits(storage_bytes=10)),
    }
    time.sleep(1.1)  # the ring reads its file once a second
    return made


@pytest.fixture(scope="module")
def ada_run(gateway: Gateway, keys: dict[str, str]) -> Iterator[dict[str, str]]:
    """A finished run of Ada's, with its file."""
    with gateway.client(keys["ada"]) as client:
        file_id = client.post(
            "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("ada.jsonl", b'{"a": "ada"}\n')}
        ).json()["id"]
        run = client.post("/v1/runs", json={"recipe": recipe("ada-bot", file_id)}).json()
        while (state := client.get(f"/v1/runs/{run['id']}").json())["state"] not in {"succeeded", "failed"}:
            time.sleep(0.1)
        assert state["state"] == "succeeded", state
        yield {"file": file_id, "run": run["id"], "model": state["artifacts"]["merge"], "deployment": "ada-bot-base"}


def test_projects_see_nothing_of_each_other(gateway: Gateway, keys: dict[str, str], ada_run: dict[str, str]) -> None:
    chat = {"model": "ada-bot", "messages": [{"role": "user", "content": "hello"}]}
    asked = [
        ("GET", f"/v1/files/{ada_run['file']}", None),
        ("GET", f"/v1/files/{ada_run['file']}/content", None),
        ("GET", f"/v1/runs/{ada_run['run']}", None),
        ("GET", f"/v1/runs/{ada_run['run']}/events", None),
        ("GET", "/v1/models/ada-bot", None),
        ("GET", f"/v1/deployments/{ada_run['deployment']}", None),
        ("GET", f"/v1/artifacts/{ada_run['model']}", None),
        ("POST", "/v1/chat/completions", chat),
    ]
    gone = [
        ("POST", f"/v1/runs/{ada_run['run']}/cancel", None),
        ("DELETE", f"/v1/files/{ada_run['file']}", None),
        ("DELETE", "/v1/models/ada-bot", None),
        ("DELETE", f"/v1/deployments/{ada_run['deployment']}", None),
    ]
    with gateway.client(keys["ada"]) as ada, gateway.client(keys["bob"]) as bob, gateway.client() as default:
        for stranger in (bob, default):
            for method, path, body in (*asked, *gone):
                answer = stranger.request(method, path, json=body)
                assert answer.status_code == httpx.codes.NOT_FOUND, (method, path, answer.text)
            for path in ("/v1/files", "/v1/runs", "/v1/models", "/v1/deployments"):
                text = stranger.get(path).text
                assert "ada-bot" not in text
                assert ada_run["file"] not in text
        for method, path, body in asked:
            assert ada.request(method, path, json=body).is_success, path
        taken = bob.post("/v1/runs", json={"recipe": recipe("ada-bot", gateway.upload())})
        assert taken.status_code == httpx.codes.BAD_REQUEST  # the default project's file is none of Bob's
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("ada.jsonl", b'{"a": "ada"}\n')}}
        same = bob.post("/v1/files", **form).json()["id"]  # type: ignore[arg-type]
        assert same == ada_run["file"]
        named = bob.post("/v1/runs", json={"recipe": recipe("ada-bot", same)})
        assert named.status_code == httpx.codes.CONFLICT
        assert bob.delete(f"/v1/files/{same}").is_success
        assert ada.get(f"/v1/files/{same}/content").content == b'{"a": "ada"}\n'
        assert bob.get(f"/v1/files/{same}").status_code == httpx.codes.NOT_FOUND


@pytest.mark.parametrize(
    ("who", "method", "path", "allowed"),
    [
        ("train", "GET", "/v1/files", True),
        ("train", "GET", "/v1/models", True),
        ("train", "POST", "/v1/chat/completions", False),
        ("train", "POST", "/v1/deployments", False),
        ("train", "GET", "/v1/usage", False),
        ("infer", "GET", "/v1/models", True),
        ("infer", "GET", "/v1/files", False),
        ("infer", "POST", "/v1/files", False),
        ("infer", "GET", "/v1/runs", False),
        ("infer", "DELETE", "/v1/models/ada-bot", False),
        ("infer", "POST", "/v1/uploads", False),
    ],
)
def test_a_key_may_do_what_its_scopes_say(
    gateway: Gateway,
    keys: dict[str, str],
    who: str,
    method: str,
    path: str,
    allowed: bool,  # noqa: FBT001 - a case
) -> None:
    with gateway.client(keys[who]) as client:
        answer = client.request(method, path, json={} if method == "POST" else None)
    assert answer.is_success if allowed else answer.status_code == httpx.codes.FORBIDDEN, answer.text
    if not allowed:
        error = answer.json()["error"]
        assert (error["code"], error["type"], error["param"]) == ("missing_scope", "permission_error", None)


def test_a_key_that_has_sent_its_requests_waits_as_long_as_it_is_told(gateway: Gateway, keys: dict[str, str]) -> None:
    with gateway.client(keys["slow"]) as client:
        answers = [client.get("/v1/models") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    assert answers[0].headers["x-ratelimit-reset-requests"].endswith("s")
    assert 1 <= int(answers[3].headers["retry-after"]) <= 20
    assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"


def test_tokens_are_counted_against_the_limit_and_shown_as_usage(
    gateway: Gateway, keys: dict[str, str], ada_run: dict[str, str]
) -> None:
    assert ada_run
    body = {"model": "ada-bot", "messages": [{"role": "user", "content": "hello"}]}
    with gateway.client(keys["terse"]) as client:
        first, second = (client.post("/v1/chat/completions", json=body) for _ in range(2))
    assert first.headers["x-ratelimit-limit-tokens"] == "2"
    assert second.status_code == httpx.codes.TOO_MANY_REQUESTS
    assert "2 tokens per minute" in second.json()["error"]["message"]
    with gateway.client(keys["ada"]) as client:
        used = {entry["name"]: entry for entry in client.get("/v1/usage").json()["data"]}
        assert used["ada-terse"]["requests"] == 1
        assert (used["ada-terse"]["input_tokens"], used["ada-terse"]["output_tokens"]) == (1, 1)
        assert used["ada-all"]["storage_bytes"] == 13
        assert client.get("/v1/usage", params={"since": "yesterday"}).status_code == httpx.codes.BAD_REQUEST
    with gateway.client(keys["bob"]) as client:
        assert "ada" not in client.get("/v1/usage").text


def test_a_key_keeps_no_more_bytes_than_it_may(gateway: Gateway, keys: dict[str, str]) -> None:
    def send(data: bytes) -> httpx.Response:
        return client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("s.jsonl", data)})

    with gateway.client(keys["small"]) as client:
        kept = send(b"12345678")
        assert kept.is_success
        full = send(b"123")
        assert full.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        assert full.json()["error"]["code"] == "storage_limit_exceeded"
        client.delete(f"/v1/files/{kept.json()['id']}")
        assert send(b"123").is_success


def test_a_bucket_fills_evenly_and_never_above_a_minutes_worth() -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    limits = Limits(requests_per_minute=2, tokens_per_minute=100)
    key = KeyRecord(id="k", name="k", created_at=0, salt="", sha256="", limits=limits)
    assert [meter.admit(key) for _ in range(2)] == [None, None]
    full = meter.admit(key)
    assert full is not None
    assert (full.what, full.limit, full.seconds) == ("requests", 2, 30)
    now[0] = 30.0
    assert meter.admit(key) is None
    now[0] = 600.0
    meter.take_tokens(key, 160)
    spent = meter.admit(key)
    assert spent is not None
    assert (spent.what, spent.seconds) == ("tokens", 37)  # 60 below zero, and one more, at 100 a minute
    assert meter.headers(key)["x-ratelimit-remaining-tokens"] == "0"
    now[0] = 637.0
    assert meter.admit(key) is None
