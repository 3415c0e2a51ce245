"""`tunewright merge` and `tunewright export` on folders and on a stack's artifacts, by the merger's own stages."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.gateway_server import KEY, Script, gateway_server
from tests.cli.shell import tunewright
from tests.merger.conftest import TINY, random_adapter, write_dataset
from tunewright.artifacts import Kind, Manifest, seal


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("merging")
    return {
        "adapter": str(random_adapter(TINY, root / "adapter")),
        "dataset": str(write_dataset(root / "dataset", 4)),
    }


def test_an_adapter_is_merged_and_the_model_exported(folders: dict[str, str], tmp_path: Path) -> None:
    model, export = str(tmp_path / "model"), str(tmp_path / "export")
    merged = tunewright(
        "merge", folders["adapter"], str(TINY), "--dataset", folders["dataset"], "--output", model, timeout=240
    )
    assert merged.returncode == 0, merged.stderr
    assert "| full_precision (chosen) |" in merged.stdout
    assert json.loads(Path(model, "merge.json").read_text("utf-8"))["merge"] == "full_precision"
    exported = tunewright(
        "export", model, "--format", "gguf", "--dataset", folders["dataset"], "--output", export, timeout=240
    )
    assert exported.returncode == 0, exported.stderr
    assert "gguf, loaded back: mean KL" in exported.stdout
    made, parent = (Manifest.from_json(Path(folder, "manifest.json").read_bytes()) for folder in (export, model))
    assert made.parents == {"model": str(parent.ref)}


def test_what_is_wrong_is_quoted_with_its_remedy(folders: dict[str, str], tmp_path: Path) -> None:
    missing = tunewright(
        "merge", "nowhere", str(TINY), "--dataset", folders["dataset"], "--output", str(tmp_path / "m")
    )
    assert missing.returncode != 0
    assert "nowhere is no folder" in missing.stderr
    wrong = tunewright(
        "export",
        str(TINY),
        "--format",
        "fp9",
        "--dataset",
        folders["dataset"],
        "--output",
        str(tmp_path / "x"),
        timeout=240,
    )
    assert wrong.returncode != 0
    assert "fp9" in wrong.stderr
    full = tunewright("export", str(TINY), "--format", "fp8", "--dataset", folders["dataset"], "--output", str(TINY))
    assert "is not empty" in full.stderr


def test_artifacts_are_fetched_with_their_manifest(folders: dict[str, str], tmp_path: Path) -> None:
    """A changed alpha is seen by the manifest that came with the adapter."""
    adapter = tmp_path / "changed"
    shutil.copytree(folders["adapter"], adapter)
    draft = Manifest(kind=Kind.ADAPTER, created_by="trainer", spec={"lora_r": 4, "lora_alpha": 4.0}, base_model="tiny")
    manifest = seal(draft, adapter, {})
    reference = str(manifest.ref)
    files = {f"{reference}/files/{entry.path}": (adapter / entry.path).read_bytes() for entry in manifest.files}
    document = {"object": "artifact", "ref": reference, "id": manifest.ref.id, **manifest.model_dump(mode="json")}
    with gateway_server(Script(documents={reference: document}, files=files)) as url:
        done = tunewright(
            "merge", reference, str(TINY), "--dataset", folders["dataset"], "--output", str(tmp_path / "model"),
            "--url", url, "--api-key", KEY, timeout=240,
        )  # fmt: skip
    assert done.returncode != 0
    assert "lora_alpha=8.0, the adapter was trained with 4.0" in done.stderr
