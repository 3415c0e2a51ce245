"""Whole local stacks of real services, and one small real recipe."""

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shell import tunewright
from tunewright.cli.stack.folder import StackFolder

ROOT = Path(__file__).parents[2]
ENDED = {"succeeded", "failed", "cancelled"}
RECIPE = """\
name: parrot
base_model: tiny_model
data:
  - path: raw.jsonl
dataprep: {split: {validation_fraction: 0.2}}
training:
  max_steps: 60
  learning_rate: 5.0e-3
  max_length: 128
  per_device_train_batch_size: 8
  gradient_accumulation_steps: 1
  eval_steps: 10
  save_steps: 10
merging: {probe_count: 4, probe_max_length: 64}
evaluation: {max_rows: 8, sample_count: 2, max_new_tokens: 8}
deployment: {max_model_len: 256, max_num_seqs: 4, kv_cache_bytes: 67108864}
"""


def write_recipe(folder: Path, recipe: str = RECIPE) -> Path:
    """Write the recipe and its raw file: sixty rows, two of them the same, one broken."""
    rows = [{"instruction": f"Say the number {n} twice.", "output": f"{n} {n}, that is the answer."} for n in range(60)]
    lines = [json.dumps(row) for row in [*rows, rows[0]]]
    (folder / "raw.jsonl").write_text("\n".join([*lines, '{"instruction": "cut off']) + "\n")
    (folder / "recipe.yaml").write_text(recipe)
    return folder / "recipe.yaml"


@dataclass(frozen=True)
class Running:
    """A stack that serves."""

    folder: StackFolder
    models: Path
    """Its import root."""

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return self.folder.status().url

    @property
    def key(self) -> str:
        """The API key."""
        return self.folder.api_key_file.read_text().strip()

    def get(self, path: str) -> dict[str, Any]:
        """Return a JSON document of the gateway."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            document: dict[str, Any] = json.load(response)
        return document

    def first_event(self, run_id: str, kind: str) -> dict[str, Any]:
        """Follow a run's events until one of this type comes, and return it."""
        url = f"{self.url}/v1/runs/{run_id}/events"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=120) as response:
            for line in response:
                if line.startswith(b"data: "):
                    event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                    if event["type"] == kind:
                        return event
        raise AssertionError(f"the run ended without an event of type {kind}")

    def submit(self, recipe: Path) -> str:
        """Start a run; return its id."""
        done = tunewright("run", str(recipe), "--detach", "--dir", str(self.folder.path), timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split()[-1]

    def wait(self, run_id: str, condition: Callable[[dict[str, Any]], bool], seconds: float = 300) -> dict[str, Any]:
        """Return the run once the condition holds; a gateway that is away is waited for."""
        deadline = time.monotonic() + seconds
        run: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                run = self.get(f"/v1/runs/{run_id}")
            except OSError:  # killed on purpose, on its way up
                run = {}
            if run and condition(run):
                return run
            time.sleep(0.1)
        raise AssertionError(f"it did not happen in time: {run}")

    def wait_for_end(self, run_id: str, seconds: float = 600) -> dict[str, Any]:
        """Return the run once it has ended."""
        return self.wait(run_id, lambda run: run["state"] in ENDED, seconds)

    def pid(self, service: str) -> int:
        """Return the process of a service."""
        mark = self.folder.status().services[service].process
        assert mark is not None
        return mark.pid

    def kill(self, *services: str) -> None:
        """Kill services with -9, all at once, and return when they serve again."""
        before = {service: self.folder.status().services[service].restarts for service in services}
        for service in services:
            os.kill(self.pid(service), 9)
        deadline = time.monotonic() + 90
        while away := [service for service in services if not self._is_back(service, before[service])]:
            assert time.monotonic() < deadline, f"{away} do not come back"
            time.sleep(0.1)

    def _is_back(self, service: str, restarts: int) -> bool:
        status = self.folder.status().services[service]
        return status.restarts > restarts and status.state == "up"


def start_stack(path: Path) -> Running:
    """Start a stack whose import root holds the tiny model."""
    models = path.with_name(path.name + "-models")
    shutil.copytree(ROOT / "tests" / "fixtures" / "tiny_model", models / "tiny_model")
    done = tunewright("up", "--dir", str(path), "--import-root", str(models), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return Running(StackFolder(path), models)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One stack for the tests that do no harm."""
    running = start_stack(tmp_path_factory.mktemp("flow") / "stack")
    yield running
    tunewright("down", "--dir", str(running.folder.path), timeout=180)


@pytest.fixture(scope="session")
def finished(stack: Running, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The main job, undisturbed: the run that others are compared with."""
    run = stack.wait_for_end(stack.submit(write_recipe(tmp_path_factory.mktemp("recipe"))))
    assert run["state"] == "succeeded", run["failure"]
    return run
