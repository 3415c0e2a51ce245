"""Every TUNEWRIGHT_ name in compose and Kubernetes is one that the service reads; no secret stands there in clear."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tunewright.chassis.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "dataprep": "tunewright.dataprep.settings:DataprepSettings",
    "gateway": "tunewright.gateway.settings:GatewaySettings",
    "merger": "tunewright.merger.service:MergerSettings",
    "trainer": "tunewright.trainer.settings:TrainerSettings",
    "evaluator": "tunewright.evaluator.settings:EvaluatorSettings",
    "inference": "tunewright.inference.settings:InferenceSettings",
}
ROOMS = ("dataprep", "trainer", "merger", "evaluator", "inference", "gateway")
BY_THE_PROCESS = {"TUNEWRIGHT_SECRETS_DIR"}
"""Read before there are settings."""


def known_names(room: str) -> set[str]:
    module, _, name = SETTINGS.get(room, "tunewright.chassis.settings:ServiceSettings").partition(":")
    settings: type[ServiceSettings] = getattr(importlib.import_module(module), name)
    return {f"TUNEWRIGHT_{field.upper()}" for field in settings.model_fields} | BY_THE_PROCESS


def strangers(room: str, names: set[str]) -> set[str]:
    """Return the TUNEWRIGHT_ names that the room does not read."""
    return {name for name in names if name.startswith("TUNEWRIGHT_")} - known_names(room)


def compose_environment(room: str) -> set[str]:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return set(document["services"][room]["environment"])


def rendered(overlay: str) -> list[dict[str, Any]]:
    kubectl = str(Path(sys.executable).with_name("kubectl"))
    command = [kubectl, "kustomize", str(ROOT / "k8s" / "overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout))


def containers(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents:
        if document["kind"] in {"Deployment", "StatefulSet"}:
            for container in document["spec"]["template"]["spec"]["containers"]:
                yield container["name"], container


def config_names(documents: list[dict[str, Any]]) -> set[str]:
    (config,) = (d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == "tunewright")
    return set(config["data"])


@pytest.mark.parametrize("room", ROOMS)
def test_compose_gives_each_room_only_names_that_it_reads(room: str) -> None:
    assert strangers(room, compose_environment(room)) == set()


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_kubernetes_gives_each_room_only_names_that_it_reads(overlay: str) -> None:
    documents = rendered(overlay)
    found = {name: container for name, container in containers(documents) if name in ROOMS}
    assert set(found) == set(ROOMS)
    common = config_names(documents)
    for room, container in found.items():
        assert strangers(room, {entry["name"] for entry in container["env"]} | common) == set()


def test_a_planted_name_is_found() -> None:
    assert strangers("trainer", {"TUNEWRIGHT_STORE_ENDPIONT", "HOME"}) == {"TUNEWRIGHT_STORE_ENDPIONT"}


def test_no_secret_stands_in_clear_in_compose_or_kubernetes() -> None:
    secret_names = {
        f"TUNEWRIGHT_{field.upper()}"
        for room in ROOMS
        for field in ("store_access_key", "store_secret_key", "engine_key", "bootstrap_api_key", "database_url")
        if f"TUNEWRIGHT_{field.upper()}" in known_names(room)
    }
    assert len(secret_names) == 5
    for room in ROOMS:
        assert not secret_names & compose_environment(room)
    for overlay in ("dev", "production"):
        documents = rendered(overlay)
        assert not secret_names & config_names(documents)
        assert not [d for d in documents if d["kind"] == "Secret"]
        for _, container in containers(documents):
            assert not secret_names & {entry["name"] for entry in container["env"]}
