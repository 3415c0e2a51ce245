"""Versions behind a public name, over HTTP: deployed, given a share, promoted, rolled back, judged, recorded."""

import json
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import MakeGateway
from tests.gateway.engine import LATE_SECONDS
from tests.gateway.processes import Gateway, recipe
from tests.seaweed import S3Settings
from tunewright.artifacts import ArtifactRef, Kind, Manifest, commit, seal

RULES = {"window_seconds": 2, "min_requests": 20, "slack_seconds": 0.1}


@pytest.fixture(scope="module")
def artifact(gateway: Gateway) -> str:
    """A model in the store."""
    run = gateway.wait(gateway.submit(recipe("artifact-bot", gateway.upload())), "succeeded")
    return str(run["artifacts"]["merge"])


def _deploy(gateway: Gateway, alias: str, artifact: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    found: dict[str, Any] = gateway.post(f"/v1/aliases/{alias}/versions", {"artifact": artifact, **more})
    return found


def _wait(gateway: Gateway, alias: str, number: int, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while True:
        version: dict[str, Any] = gateway.get(f"/v1/aliases/{alias}")["versions"][number - 1]
        if version["state"] in states:
            return version
        assert time.monotonic() < deadline, version
        time.sleep(0.05)


def _two(gateway: Gateway, alias: str, artifact: str, **more: Any) -> None:  # noqa: ANN401 - JSON
    """Deploy a version that serves, and a candidate."""
    _deploy(gateway, alias, artifact)
    _wait(gateway, alias, 1, "serving")
    _deploy(gateway, alias, artifact, **more)
    _wait(gateway, alias, 2, "canary", "standby")


def _ask(client: httpx.Client, model: str, user: str = "", **more: object) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "one two"}], **more}
    return client.post("/v1/chat/completions", json=body | ({"user": user} if user else {}))


def _who(gateway: Gateway, alias: str, user: str) -> int:
    """Return the number of the version that answers a user, by what the gateway counted for it."""
    before = [version["seen"]["requests"] for version in gateway.get(f"/v1/aliases/{alias}")["versions"]]
    with gateway.client() as client:
        assert _ask(client, alias, user).status_code == httpx.codes.OK
    after = [version["seen"]["requests"] for version in gateway.get(f"/v1/aliases/{alias}")["versions"]]
    (number,) = [n for n, (a, b) in enumerate(zip(before, after, strict=True), start=1) if a != b]
    return number


def test_the_first_version_gets_all_traffic_and_a_candidate_none_until_it_is_promoted(
    gateway: Gateway, artifact: str
) -> None:
    _two(gateway, "plain-bot", artifact, weight=0, why="a better one")
    assert [_who(gateway, "plain-bot", f"u{n}") for n in range(4)] == [1, 1, 1, 1]
    gateway.post("/v1/aliases/plain-bot/promote", {"why": "looks good"})
    assert [_who(gateway, "plain-bot", f"u{n}") for n in range(4)] == [2, 2, 2, 2]
    assert gateway.get("/v1/aliases/plain-bot")["serving"] == 2
    first = _wait(gateway, "plain-bot", 1, "retired")
    deadline = time.monotonic() + 15
    while gateway.get(f"/v1/deployments/{first['deployment']}")["state"] != "stopped":
        assert time.monotonic() < deadline, "the version before is stopped once its answers have ended"
        time.sleep(0.1)
    changes = gateway.get("/v1/aliases/plain-bot/changes")["data"]
    assert [(c["action"], c["version"]) for c in changes] == [
        ("promote", 2), ("standby", 2), ("deploy", 2), ("serving", 1), ("deploy", 1)
    ]  # fmt: skip
    assert (changes[0]["who"], changes[0]["why"]) == ("key bootstrap", "looks good")
    assert changes[2]["why"] == "a better one"


def test_a_user_stays_with_one_version_and_with_the_canary_when_its_share_grows(
    gateway: Gateway, artifact: str
) -> None:
    _two(gateway, "sticky-bot", artifact, weight=30, rules={"window_seconds": 3600})
    users = [f"user-{n}" for n in range(12)]
    first = [_who(gateway, "sticky-bot", user) for user in users]
    assert set(first) == {1, 2}
    assert [_who(gateway, "sticky-bot", user) for user in users] == first
    gateway.post("/v1/aliases/sticky-bot/promote", {"weight": 80})
    second = [_who(gateway, "sticky-bot", user) for user in users]
    assert second.count(2) > first.count(2)
    assert all(after == 2 for before, after in zip(first, second, strict=True) if before == 2)


def test_a_rollback_of_a_candidate_takes_its_share_and_one_without_a_candidate_brings_the_version_before_back(
    gateway: Gateway, artifact: str
) -> None:
    _two(gateway, "back-bot", artifact, weight=50, rules={"window_seconds": 3600})
    gateway.post("/v1/aliases/back-bot/rollback", {"why": "odd answers"})
    assert {_who(gateway, "back-bot", f"u{n}") for n in range(6)} == {1}
    assert _wait(gateway, "back-bot", 2, "rolled_back")["weight"] == 0
    _deploy(gateway, "back-bot", artifact)
    _wait(gateway, "back-bot", 3, "serving")
    assert gateway.post("/v1/aliases/back-bot/rollback", {})["version"] == 1
    _wait(gateway, "back-bot", 1, "serving")
    assert _wait(gateway, "back-bot", 3, "retired")["weight"] == 0
    assert _who(gateway, "back-bot", "anyone") == 1


def test_a_version_that_fails_is_rolled_back_by_itself_and_the_record_tells_the_numbers(
    gateway: Gateway, artifact: str
) -> None:
    _two(gateway, "half-broken", artifact, weight=50, rules={**RULES, "window_seconds": 60})
    with gateway.client() as client, ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda n: _ask(client, "half-broken", f"u{n}").status_code, range(40)))
    assert statuses.count(500) >= 3
    assert statuses.count(200) >= 20
    _wait(gateway, "half-broken", 2, "rolled_back")
    change = gateway.get("/v1/aliases/half-broken/changes")["data"][0]
    assert (change["action"], change["version"], change["who"]) == ("rollback", 2, "canary rules")
    canary, serving = change["data"]["canary"], change["data"]["serving"]
    assert canary["errors"] >= 3
    assert serving["errors"] == 0
    assert (
        f"{canary['errors']} of {canary['requests']} answers were errors, 0 of {serving['requests']}" in change["why"]
    )
    with gateway.client() as client:
        assert [_ask(client, "half-broken", f"u{n}").status_code for n in range(20)] == [200] * 20


def test_a_version_that_is_slow_to_its_first_word_is_rolled_back_by_itself(gateway: Gateway, artifact: str) -> None:
    _two(gateway, "slow-second", artifact, weight=50, rules={**RULES, "window_seconds": 60, "min_requests": 8})
    with gateway.client() as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: _ask(client, "slow-second", f"u{n}", stream=True).read(), range(48)))
    _wait(gateway, "slow-second", 2, "rolled_back")
    change = gateway.get("/v1/aliases/slow-second/changes")["data"][0]
    assert "time to first token (p95)" in change["why"]
    assert change["data"]["canary"]["ttft_p50_ms"] > LATE_SECONDS * 1000
    assert change["data"]["serving"]["ttft_p95_ms"] < LATE_SECONDS * 1000


def test_a_version_with_nothing_against_it_is_promoted_by_itself_after_its_window(
    gateway: Gateway, artifact: str
) -> None:
    _two(gateway, "good-bot", artifact, weight=50, rules=RULES)
    deadline = time.monotonic() + 30
    with gateway.client() as client:
        while gateway.get("/v1/aliases/good-bot")["serving"] != 2:
            assert time.monotonic() < deadline, gateway.get("/v1/aliases/good-bot")
            for _ in range(10):
                assert _ask(client, "good-bot").status_code == httpx.codes.OK
            time.sleep(0.05)
    change = gateway.get("/v1/aliases/good-bot/changes")["data"][0]
    assert (change["action"], change["who"]) == ("promote", "canary rules")
    assert change["data"]["canary"]["requests"] >= 20


def test_a_version_whose_deployment_fails_never_gets_traffic_and_says_why(gateway: Gateway, artifact: str) -> None:
    _deploy(gateway, "hopeless", artifact)
    failed = _wait(gateway, "hopeless", 1, "failed")
    assert failed["detail"] == "no memory"
    with gateway.client() as client:
        assert _ask(client, "hopeless").status_code == httpx.codes.NOT_FOUND


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"use_dora": True, "r": 8}, "it is a DoRA adapter (use_dora)"),
        ({"modules_to_save": ["lm_head"], "r": 8}, "it brings whole modules (modules_to_save: lm_head)"),
        ({"r": 8, "rank_pattern": {"q_proj": 1024}}, "its rank is 1024, vLLM serves up to 512"),
    ],
)
def test_an_adapter_that_vllm_cannot_serve_is_merged_instead_and_it_says_so(
    gateway: Gateway, s3_store_settings: S3Settings, tmp_path: Path, config: dict[str, Any], why: str
) -> None:
    store = s3_store_settings.store("gateway")
    run = gateway.wait(gateway.submit(recipe("parents-bot", gateway.upload())), "succeeded")
    parents = {"base": run["artifacts"]["import"], "dataset": run["artifacts"]["prepare"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    refs = {name: ArtifactRef.parse(text) for name, text in parents.items()}
    adapter = commit(store, seal(Manifest(kind=Kind.ADAPTER, created_by="test"), tmp_path, refs), tmp_path)
    alias = f"odd-{next(iter(config)).replace('_', '-')}"
    _deploy(gateway, alias, str(adapter))
    version = _wait(gateway, alias, 1, "serving")
    assert version["adapter"] is None
    assert version["model"] not in {parents["base"], str(adapter)}
    merged = gateway.get(f"/v1/artifacts/{version['model']}")
    assert merged["created_by"] == "merger"
    change = next(c for c in gateway.get(f"/v1/aliases/{alias}/changes")["data"] if c["action"] == "merge")
    assert change["why"] == f"vLLM cannot serve this adapter on its base: {why}"
    assert change["data"] == {"adapter": str(adapter), "model": version["model"]}


def test_an_undeployed_name_is_unknown_and_another_project_never_sees_it(gateway: Gateway, artifact: str) -> None:
    _deploy(gateway, "gone-bot", artifact)
    _wait(gateway, "gone-bot", 1, "serving")
    stranger = gateway.key(f"stranger-{uuid.uuid4().hex[:6]}", project="other")
    time.sleep(1.1)  # the file of keys is looked at once a second
    with gateway.client(stranger) as client:
        assert client.get("/v1/aliases/gone-bot").status_code == httpx.codes.NOT_FOUND
        assert client.post("/v1/aliases/gone-bot/rollback", json={}).status_code == httpx.codes.NOT_FOUND
        assert client.get("/v1/aliases").json()["data"] == []
    with gateway.client() as client:
        assert client.delete("/v1/aliases/gone-bot", params={"why": "no use"}).json()["deleted"]
        assert _ask(client, "gone-bot").status_code == httpx.codes.NOT_FOUND
        assert gateway.get("/v1/aliases/gone-bot/changes")["data"][0]["why"] == "no use"


@pytest.mark.parametrize(
    ("alias", "body", "status", "says"),
    [
        ("Bad Name", {}, 400, "is no name for a model"),
        ("wrong", {"weight": 101}, 400, "weight"),
        ("wrong", {"rules": {"speed": 1}}, 400, "rules.speed"),
        ("wrong", {"spec": {"max_num_seqs": 5000}}, 400, "wrong"),
        ("wrong", {"artifact": "models/nothing"}, 400, "artifact"),
        ("wrong", {"artifact": f"models/{'0' * 64}"}, 404, "no artifact"),
    ],
)
def test_what_is_wrong_with_a_version_is_named(
    gateway: Gateway, artifact: str, alias: str, body: dict[str, Any], status: int, says: str
) -> None:
    with gateway.client() as client:
        answer = client.post(f"/v1/aliases/{alias}/versions", json={"artifact": artifact, **body})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


def test_a_second_candidate_and_a_promotion_of_nothing_are_conflicts(gateway: Gateway, artifact: str) -> None:
    _two(gateway, "one-bot", artifact, weight=0)
    with gateway.client() as client:
        second = client.post("/v1/aliases/one-bot/versions", json={"artifact": artifact})
        assert (second.status_code, second.json()["error"]["code"]) == (409, "conflict")
        assert client.post("/v1/aliases/one-bot/rollback", json={}).status_code == httpx.codes.OK
        assert client.post("/v1/aliases/one-bot/promote", json={}).status_code == httpx.codes.CONFLICT
        assert client.post("/v1/aliases/no-bot/promote", json={}).status_code == httpx.codes.NOT_FOUND


def test_versions_and_their_changes_outlive_the_gateway(
    make_gateway: MakeGateway, gateway: Gateway, artifact: str
) -> None:
    assert gateway
    own = make_gateway()
    _deploy(own, "lasting-bot", artifact)
    _wait(own, "lasting-bot", 1, "serving")
    _deploy(own, "lasting-bot", artifact, weight=20, rules={"window_seconds": 3600})
    own.kill()
    own.start()
    assert _wait(own, "lasting-bot", 2, "canary")["weight"] == 20
    assert own.get("/v1/aliases/lasting-bot/changes")["data"][-1]["action"] == "deploy"
