"""The whole stack in containers on a real Docker engine, built from this checkout, once a session."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_FILES = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(ROOT / "deploy" / "compose.built.yaml"))
_UP_SECONDS = 1500
"""Images are built first: 3 GB of packages on two cores."""


@dataclass(frozen=True)
class Stack:
    """A running compose project."""

    project: str
    environment: dict[str, str]

    def compose(self, *arguments: str, timeout: float = 120, check: bool = True) -> str:
        """Run `docker compose …` on this project; return its standard output."""
        command = ["docker", "compose", "-p", self.project, *_FILES, *arguments]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def url(self, service: str, port: int) -> str:
        """Return where a published port answers on this machine."""
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def states(self) -> dict[str, dict[str, Any]]:
        """Return service → what `docker compose ps` says of it."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return {row["Service"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Build, start, wait until everything is healthy; remove all of it afterwards."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "tests" / "fixtures" / "tiny_model", models / "tiny_model")
    models.chmod(0o755)
    for path in models.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    own = {
        "TUNEWRIGHT_VERSION": "stack-test",
        "TUNEWRIGHT_MODELS": str(models),
        "TUNEWRIGHT_PUBLISH": "127.0.0.1:0",
        "PROMETHEUS_PUBLISH": "127.0.0.1:0",
        "WHEELHOUSE": str(ROOT / "deploy" / "wheelhouse"),
    }
    found = Stack(f"tunewright-test-{uuid.uuid4().hex[:8]}", os.environ | own)
    try:
        found.compose("up", "--detach", "--build", timeout=_UP_SECONDS)
        yield found
    finally:
        (ROOT / "var").mkdir(exist_ok=True)
        (ROOT / "var" / "stack-test.log").write_text(found.compose("logs", "--no-color", check=False))
        found.compose("down", "--volumes", "--timeout", "20", check=False, timeout=180)


@pytest.fixture(scope="session")
def api_key(stack: Stack) -> str:
    """The key that was made on the first start."""
    return stack.compose("exec", "-T", "gateway", "cat", "/credentials/api_key").strip()
