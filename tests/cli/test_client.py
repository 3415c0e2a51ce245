"""The client against a real HTTP server: cursors, refusals, streams."""

import time
from pathlib import Path

import pytest

from tests.cli.gateway_server import KEY, Script, gateway_server, story
from tunewright.cli.client import ApiError, Gateway
from tunewright.cli.endpoint import Endpoint
from tunewright.cli.errors import CliError


def endpoint(url: str, key: str = KEY) -> Endpoint:
    return Endpoint(url=url, api_key=key, origin="a test")


def test_events_go_on_after_the_newest_one_when_the_connection_breaks() -> None:
    script = Script(events=story(), breaks_after=[2, 3])
    with gateway_server(script) as url, Gateway(endpoint(url)) as gateway:
        sequences = [event["sequence"] for event in gateway.events("run-1")]
    assert sequences == [1, 2, 3, 4, 5, 6], "none lost, none twice"
    assert script.cursors == [0, 2, 3]


def test_a_gateway_that_stays_away_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.cli.client.PATIENCE_SECONDS", 1.2)
    told: list[str] = []
    begun = time.monotonic()
    with Gateway(endpoint("http://127.0.0.1:9")) as gateway, pytest.raises(CliError, match="does not answer") as caught:
        list(gateway.events("run-1", lost=told.append))
    assert time.monotonic() - begun < 5
    assert "Connection refused" in caught.value.message
    assert told, "the person is told while it is tried again"


def test_a_wrong_key_is_refused_once_with_a_remedy() -> None:
    script = Script(events=story())
    with gateway_server(script) as url, Gateway(endpoint(url, "wrong")) as gateway, pytest.raises(ApiError) as caught:
        list(gateway.events("run-1"))
    assert caught.value.status == 401
    assert "TUNEWRIGHT_API_KEY" in caught.value.remedy
    assert script.cursors == []


def test_an_upload_arrives_whole_and_its_progress_adds_up_to_its_size(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b'{"a": 1}\n' * 50_000)
    sent: list[int] = []
    script = Script()
    with gateway_server(script) as url, Gateway(endpoint(url)) as gateway:
        assert gateway.upload(raw, sent.append) == f"file-{'f' * 64}"
    assert script.uploads == [raw.read_bytes()]
    assert sum(sent) == raw.stat().st_size
    assert len(sent) > 2


def test_an_answer_that_breaks_off_is_an_error_and_not_an_answer() -> None:
    messages = [{"role": "user", "content": "hello"}]
    with gateway_server(Script()) as url, Gateway(endpoint(url)) as gateway:
        assert "".join(gateway.chat("bot", messages)) == "you said: hello"
        with pytest.raises(CliError, match="broke off"):
            list(gateway.chat("breaks-off", messages))
