"""Deployment is data that keeps its promises: hardened pods and containers, one kind a file, shared layers, alerts."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.test_environment_names import ROOMS, ROOT, containers, rendered

OVERLAYS = ("dev", "production")
TORCH_ROOMS = ("trainer", "merger", "inference")


def pods(overlay: str) -> list[tuple[str, dict[str, Any]]]:
    kinds = {"Deployment", "StatefulSet"}
    found = [document for document in rendered(overlay) if document["kind"] in kinds]
    return [(document["metadata"]["name"], document["spec"]["template"]["spec"]) for document in found]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_valid_kubernetes_strictly(overlay: str, tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(rendered(overlay)))
    validate = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", str(file)]
    done = subprocess.run(validate, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_nobody_reads_only_and_can_do_nothing(overlay: str) -> None:
    for name, pod in pods(overlay):
        context = pod["securityContext"]
        assert context["runAsNonRoot"], name
        assert context["runAsUser"] == 10001, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            hardened = container["securityContext"]
            assert hardened["readOnlyRootFilesystem"], name
            assert hardened["allowPrivilegeEscalation"] is False, name
            assert hardened["capabilities"] == {"drop": ["ALL"]}, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_has_probes_limits_and_named_ports(overlay: str) -> None:
    for name, container in containers(rendered(overlay)):
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name
        assert container["resources"]["limits"]["memory"], name
        assert container["resources"]["requests"], name
        assert all(port["name"] for port in container["ports"]), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_rooms_are_probed_by_grpc(overlay: str) -> None:
    for name, container in containers(rendered(overlay)):
        if name in ROOMS and name != "gateway":
            assert container["readinessProbe"]["grpc"]["port"] == 50052, name


def test_production_puts_training_and_serving_on_gpus() -> None:
    limits = {name: container["resources"]["limits"] for name, container in containers(rendered("production"))}
    assert {name for name, limit in limits.items() if limit.get("nvidia.com/gpu") == 1} == {"trainer", "inference"}


def test_production_denies_traffic_that_no_policy_allows() -> None:
    policies = {d["metadata"]["name"]: d for d in rendered("production") if d["kind"] == "NetworkPolicy"}
    assert policies["default-deny"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    selected = str([policy["spec"]["podSelector"] for policy in policies.values()])
    assert all(room in selected for room in ROOMS)


def test_one_kind_stands_in_each_file() -> None:
    files = [path for path in (ROOT / "k8s" / "base").rglob("*.yaml") if path.name != "kustomization.yaml"]
    assert len(files) > 12
    for path in files:
        (document,) = yaml.safe_load_all(path.read_text())
        assert path.stem == document["kind"].lower(), path


def test_every_compose_service_is_hardened_and_checked() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert name == "credentials" or service["healthcheck"]["test"], name
        assert all(str(port).startswith("${") and ":-127.0.0.1:" in port for port in service.get("ports", ())), name


def test_torch_is_installed_in_one_layer_that_three_images_share() -> None:
    def shared(room: str) -> str:
        text = (ROOT / "services" / room / "Dockerfile").read_text()
        return text[text.index("# The stages down to") : text.index("FROM torch AS package")]

    assert len({shared(room) for room in TORCH_ROOMS}) == 1


@pytest.mark.parametrize("room", ROOMS)
def test_every_image_runs_as_nobody_and_pulls_no_syntax(room: str) -> None:
    lines = (ROOT / "services" / room / "Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert not [line for line in lines if line.startswith("# syntax=")]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_each_alert_has_a_rule_test_and_all_pass() -> None:
    folder = ROOT / "deploy" / "prometheus"
    rules = yaml.safe_load((folder / "rules.yml").read_text())["groups"]
    tests = yaml.safe_load((folder / "rules.test.yml").read_text())["tests"]
    tested = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert {rule["alert"] for group in rules for rule in group["rules"]} == tested
    done = subprocess.run(
        ["promtool", "test", "rules", "rules.test.yml"],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_trainer_alone_gets_several_gpus_where_the_component_is_taken(tmp_path: Path) -> None:
    k8s = Path(shutil.copytree(ROOT / "k8s", tmp_path / "k8s"))
    overlay = k8s / "overlays" / "production" / "kustomization.yaml"
    gpu = "  - ../../components/gpu\n"
    text = overlay.read_text(encoding="utf-8")
    assert gpu in text
    overlay.write_text(text.replace(gpu, f"{gpu}  - ../../components/several-gpus\n"), encoding="utf-8")
    tools = Path(sys.executable)
    kustomize = [str(tools.with_name("kubectl")), "kustomize", str(overlay.parent)]
    done = subprocess.run(kustomize, check=True, capture_output=True, timeout=60)
    file = tmp_path / "rendered.yaml"
    file.write_bytes(done.stdout)
    validate = [str(tools.with_name("kubernetes-validate")), "--strict", str(file)]
    assert subprocess.run(validate, check=False, capture_output=True, timeout=120).returncode == 0
    gpus = {
        name: int(container["resources"]["limits"]["nvidia.com/gpu"])
        for name, container in containers(list(yaml.safe_load_all(done.stdout)))
        if "nvidia.com/gpu" in container["resources"]["limits"]
    }
    assert gpus == {"trainer": 2, "inference": 1}
