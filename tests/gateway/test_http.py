"""The door itself: keys, errors, headers, health, metrics, the OpenAPI document."""

import json
import os
import subprocess
import sys
import time
import urllib.request

import httpx
import pytest

from tests.gateway.conftest import MakeGateway
from tests.gateway.processes import Gateway, Process

CLOSED = [
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files/x/content"),
    ("GET", "/v1/runs"),
    ("POST", "/v1/runs"),
    ("GET", "/v1/runs/x/events"),
    ("GET", "/v1/models"),
    ("GET", "/v1/deployments"),
    ("GET", f"/v1/artifacts/models/{'0' * 64}"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer tw-00000000-wrong", "Basic abc", "Bearer"])
def test_nobody_comes_in_without_a_key(gateway: Gateway, method: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = httpx.request(method, f"{gateway.url}{path}", headers=headers)
    assert answer.status_code == httpx.codes.UNAUTHORIZED
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.json()["error"]["type"] == "authentication_error"


def test_every_path_of_the_openapi_document_under_v1_wants_a_key(gateway: Gateway) -> None:
    document = httpx.get(f"{gateway.url}/openapi.json").json()
    operations = [
        (path, method) for path, item in document["paths"].items() for method in item if path.startswith("/v1/")
    ]
    assert len(operations) >= 20
    assert not [path for path, method in operations if "422" in document["paths"][path][method]["responses"]]
    for path, method in operations:
        assert document["paths"][path][method]["security"] == [{"HTTPBearer": []}]
        answer = httpx.request(method, f"{gateway.url}{path.replace('{', '').replace('}', '')}")
        assert answer.status_code == httpx.codes.UNAUTHORIZED, (method, path)


def test_a_key_made_on_the_command_line_opens_a_running_gateway_until_it_is_revoked(gateway: Gateway) -> None:
    environment = {**os.environ, "TUNEWRIGHT_API_KEYS_FILE": str(gateway.folder / "keys.json")}

    def keys(*arguments: str) -> str:
        command = [sys.executable, "-m", "tunewright.gateway", "keys", *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    key = keys("create", "--name", "ada")
    assert key not in (gateway.folder / "keys.json").read_text()
    assert (gateway.folder / "keys.json").stat().st_mode & 0o777 == 0o600
    time.sleep(1.1)
    with gateway.client(key) as client:
        assert client.get("/v1/models").status_code == httpx.codes.OK
        (mine,) = [line.split() for line in keys("list").splitlines() if " ada " in line]
        identifier, _, name, project, scopes = mine
        assert (name, project, scopes) == ("ada", "default", "admin")
        keys("revoke", identifier)
        time.sleep(1.1)
        assert client.get("/v1/models").status_code == httpx.codes.UNAUTHORIZED
    assert key not in gateway.log()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("PUT", "/v1/files", 405, "method_not_allowed"),
        ("GET", "/v1/files/file-zz", 404, "not_found"),
        ("GET", "/v1/runs/run-none", 404, "not_found"),
        ("GET", "/v1/runs/run-none/events", 404, "not_found"),
        ("POST", "/v1/runs/run-none/cancel", 404, "not_found"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
        ("GET", "/v1/models/org/nobody", 404, "model_not_found"),
        ("GET", "/v1/deployments/nobody", 404, "not_found"),
        ("DELETE", "/v1/deployments/nobody", 404, "not_found"),
        ("GET", "/v1/artifacts/wishes/1", 404, "not_found"),
        ("GET", f"/v1/artifacts/models/{'0' * 64}", 404, "not_found"),
        ("GET", f"/v1/artifacts/models/{'0' * 64}/lineage", 404, "not_found"),
        ("GET", "/v1/runs?limit=0", 400, "invalid_spec"),
        ("GET", "/v1/runs?limit=many", 400, "invalid_spec"),
        ("POST", "/v1/runs", 400, "invalid_spec"),
        ("POST", "/v1/deployments", 400, "invalid_spec"),
    ],
)
def test_every_error_has_openais_four_keys(gateway: Gateway, method: str, path: str, status: int, code: str) -> None:
    with gateway.client() as client:
        answer = client.request(method, path)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["code"] == code
    assert answer.headers["x-request-id"].startswith("req_")


def test_a_body_above_the_limit_is_413_whether_its_length_is_told_or_not(gateway: Gateway) -> None:
    body = json.dumps({"recipe": "x" * 60_000}).encode()
    with gateway.client() as client:
        told = client.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
        untold = client.post("/v1/runs", content=iter([body]), headers={"Content-Type": "application/json"})
    assert told.status_code == untold.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    assert untold.json()["error"]["code"] == "too_large"


def test_answers_carry_security_headers_and_the_clients_request_id(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.get("/v1/runs", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "server" not in answer.headers
    line = next(text for text in gateway.log().splitlines() if "mine-1" in text)
    assert json.loads(line)["key"] == "bootstrap"


def test_readiness_names_the_room_that_is_down(make_gateway: MakeGateway, rooms: dict[str, Process]) -> None:
    gateway = make_gateway(evaluator_address="127.0.0.1:1")
    answer = httpx.get(f"{gateway.url}/readyz")
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    parts = answer.json()["parts"]
    assert {name for name, condition in parts.items() if condition != "ok"} == {"evaluator"}
    assert "evaluator at 127.0.0.1:1 does not answer" in parts["evaluator"]
    assert set(rooms) <= set(parts)
    assert httpx.get(f"{gateway.url}/healthz").json() == {"status": "ok", "database": "ok"}
    with gateway.client() as client:
        refused = client.post("/v1/runs", json={"recipe": {**_recipe(gateway)}})
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert refused.headers["retry-after"] == "2"


def _recipe(gateway: Gateway) -> dict[str, object]:
    return {"name": "unready-bot", "base_model": "tiny", "data": [{"file": gateway.upload()}]}


def test_all_parts_up_is_ready(gateway: Gateway) -> None:
    assert httpx.get(f"{gateway.url}/readyz").json()["status"] == "ready"


def test_metrics_count_requests_by_route_and_runs_by_state(gateway: Gateway) -> None:
    gateway.get("/v1/models")
    page = urllib.request.urlopen(f"http://{gateway.addresses['metrics']}/metrics").read().decode()
    assert 'tunewright_http_requests_total{method="GET",route="/v1/models",status="200"}' in page
    assert 'tunewright_runs{state="failed"}' in page
    assert 'tunewright_http_request_duration_seconds_bucket{le="0.005",method="GET",route="/v1/models"}' in page


def test_a_report_is_shown_in_a_sandbox_and_unknown_files_are_downloads(gateway: Gateway) -> None:
    runs = [run for run in gateway.get("/v1/runs", limit=100)["data"] if "merge" in run["artifacts"]]
    if not runs:
        run_id = gateway.submit(_recipe(gateway))
        runs = [gateway.wait(run_id, "succeeded")]
    artifacts = runs[0]["artifacts"]
    with gateway.client() as client:
        page = client.get(f"/v1/artifacts/{artifacts['prepare']}/files/report.html")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert client.get(f"/v1/artifacts/{artifacts['prepare']}/files/../manifest.json").status_code == 404
        assert client.get(f"/v1/artifacts/{artifacts['prepare']}/files/nothing").status_code == 404
    manifest = gateway.get(f"/v1/artifacts/{artifacts['merge']}")
    assert manifest["ref"] == artifacts["merge"]
    chain = [item["kind"] for item in gateway.get(f"/v1/artifacts/{artifacts['merge']}/lineage")["data"]]
    assert chain[0] == "models"
    assert set(chain[1:]) == {"adapters", "datasets", "models", "uploads"}


def test_a_taken_port_and_a_short_key_are_one_clear_line(gateway: Gateway) -> None:
    for variable, value, says in [
        ("TUNEWRIGHT_HTTP_LISTEN", gateway.addresses["http"], "cannot listen on"),
        ("TUNEWRIGHT_BOOTSTRAP_API_KEY", "short", "16 characters"),
    ]:
        process = Gateway({}, {}, gateway.folder.parent / f"second-{variable}", **{variable[11:].lower(): value})
        process._environment |= {"TUNEWRIGHT_STORE_ENDPOINT": "http://127.0.0.1:1"}
        environment = {**process._environment, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-m", "tunewright.gateway"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert says in done.stderr
        assert "Traceback" not in done.stderr
