"""The ready programs run as they are given, for every kind of name."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.gateway.processes import BOOTSTRAP_KEY, Gateway, recipe

COMMANDS = {"curl": ["bash"], "python": [sys.executable], "node": ["node"]}


@pytest.fixture(scope="module")
def model(gateway: Gateway) -> str:
    """A public name that answers."""
    gateway.wait(gateway.submit(recipe("snippet-bot", gateway.upload())), "succeeded")
    return "snippet-bot"


@pytest.mark.parametrize("language", sorted(COMMANDS))
def test_a_snippet_runs_as_it_is_and_prints_the_answer(
    gateway: Gateway, model: str, tmp_path: Path, language: str
) -> None:
    command = [sys.executable, "-m", "tunewright.cli", "snippet", model, "--language", language]
    environment = {**os.environ, "TUNEWRIGHT_URL": gateway.url, "TUNEWRIGHT_API_KEY": BOOTSTRAP_KEY}
    program = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    (tmp_path / "program").write_text(program)
    environment = {**os.environ, "OPENAI_API_KEY": BOOTSTRAP_KEY}
    run = [*COMMANDS[language], str(tmp_path / "program")]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Hello" in done.stdout  # the engine of these tests says what it was told
    assert BOOTSTRAP_KEY not in program


def test_the_snippets_of_a_model_that_is_not_there_are_404(gateway: Gateway) -> None:
    with gateway.client() as client:
        assert client.get("/v1/snippets", params={"model": "nobody"}).status_code == httpx.codes.NOT_FOUND
