"""`tunewright merge` and `tunewright export` on folders and on a stack's artifacts, by the merger's own stages."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.gateway_server import KEY, Script, gateway_server
from tests.cli.shell import tunewright
from tests.merger.conftest import TINY, random_adapter, write_dataset
from tunewright.artifacts import Kind, Manifest, seal
from tunewright.cli.client import Gateway
from tunewright.cli.endpoint import Endpoint
from tunewright.cli.errors import CliError
from tunewright.cli.merging import find_input


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
    assert (tmp_path / "model.inputs" / manifest.ref.id / "adapter_model.safetensors").is_file(), "for the next attempt"


def fetch(text: str, files: dict[str, bytes], scratch: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Fetch an artifact from a gateway that shows its manifest changed."""
    entries = [
        {"path": path, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in files.items()
    ]
    document = {"object": "artifact", "ref": text, "id": text.partition("/")[2], "files": entries}
    change(document)
    served = {f"{text}/files/{path}": data for path, data in files.items()}
    with (
        gateway_server(Script(documents={text: document}, files=served)) as url,
        Gateway(Endpoint(url=url, api_key=KEY, origin="the test")) as gateway,
    ):
        return find_input("base", text, scratch, lambda: gateway)


def test_another_artifact_of_the_same_size_is_fetched_and_not_taken_for_the_one_that_lies_there(tmp_path: Path) -> None:
    """Two bases whose weights have the same size, fetched for the same output one after the other."""
    first, second = f"models/{'a' * 64}", f"models/{'b' * 64}"
    before = fetch(first, {"w": b"one"}, tmp_path, lambda _: None)
    after = fetch(second, {"w": b"two"}, tmp_path, lambda _: None)
    assert ((before / "w").read_bytes(), (after / "w").read_bytes()) == (b"one", b"two")
    (after / "w").write_bytes(b"bad")
    assert (fetch(second, {"w": b"two"}, tmp_path, lambda _: None) / "w").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda document: document["files"][0].update(path="../escaped"), "no path inside an artifact"),
        (lambda document: document["files"][0].update(path="/tmp/escaped"), "no path inside an artifact"),  # noqa: S108 - never written
        (lambda document: document["files"][0].update(path="manifest.json"), "no path inside an artifact"),
        (lambda document: document.update(id="../escaped"), "as the id of"),
        (lambda document: document.update(id="c" * 64), "as the id of"),
        (lambda document: document["files"][0].update(sha256="0" * 64), "its manifest promises 000"),
    ],
)
def test_what_a_gateway_says_of_paths_ids_and_bytes_is_checked(
    change: Callable[[dict[str, Any]], object], why: str, tmp_path: Path
) -> None:
    with pytest.raises(CliError, match=why):
        fetch(f"models/{'a' * 64}", {"w": b"one"}, tmp_path / "scratch", change)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
