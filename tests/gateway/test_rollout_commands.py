"""`tunewright deploy`, `promote`, `rollback`, `undeploy`, `versions` against a real gateway."""

import os
import subprocess
import sys

import pytest

from tests.gateway.processes import BOOTSTRAP_KEY, Gateway, recipe


def _tunewright(gateway: Gateway, *words: str, fails: bool = False) -> str:
    environment = {**os.environ, "TUNEWRIGHT_URL": gateway.url, "TUNEWRIGHT_API_KEY": BOOTSTRAP_KEY, "COLUMNS": "200"}
    command = [sys.executable, "-m", "tunewright.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def artifact(gateway: Gateway) -> str:
    """A model in the store."""
    run = gateway.wait(gateway.submit(recipe("command-bot", gateway.upload())), "succeeded")
    return str(run["artifacts"]["merge"])


def test_a_name_goes_through_its_life_by_commands(gateway: Gateway, artifact: str) -> None:
    assert "cli-bot v1: serving, 100 % of the traffic" in _tunewright(gateway, "deploy", "cli-bot", artifact)
    canary = _tunewright(
        gateway, "deploy", "cli-bot", artifact, "--weight", "5", "--rule", "min_requests=7", "--why", "ticket 12"
    )
    assert "cli-bot v2: canary, 5 % of the traffic" in canary
    assert gateway.get("/v1/aliases/cli-bot")["versions"][1]["rules"]["min_requests"] == 7
    assert "v2: canary, 40 %" in _tunewright(gateway, "promote", "cli-bot", "--weight", "40")
    assert "v2: serving, 100 %" in _tunewright(gateway, "promote", "cli-bot")
    assert "v1: serving" in _tunewright(gateway, "rollback", "cli-bot", "--why", "odd answers")
    shown = _tunewright(gateway, "versions", "cli-bot")
    assert "ticket 12" in shown
    assert "odd answers" in shown
    assert "key bootstrap" in shown
    assert "undeployed" in _tunewright(gateway, "undeploy", "cli-bot")
    assert gateway.get("/v1/aliases/cli-bot")["serving"] is None


def test_what_fails_says_why_and_ends_with_a_status(gateway: Gateway, artifact: str) -> None:
    assert "no memory" in _tunewright(gateway, "deploy", "hopeless-cli", artifact, fails=True)
    assert "is no rule" in _tunewright(gateway, "deploy", "x-bot", artifact, "--rule", "fast", fails=True)
    assert "no model is called" in _tunewright(gateway, "rollback", "nobody", fails=True)
