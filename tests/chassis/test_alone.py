"""A stage run alone: an input that says it is an artifact must be that artifact, to the byte."""

import argparse
from pathlib import Path

import pytest

from tests.chassis.stages import COUNT
from tunewright.artifacts import Kind, Manifest, seal
from tunewright.chassis import alone, logs
from tunewright.chassis.errors import Refused
from tunewright.chassis.reporter import StageReporter


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an artifact's folder with its manifest; this process keeps its own logs and signals."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setattr(StageReporter, "stop_on_signals", lambda _: None)
    path = tmp_path / "input"
    path.mkdir()
    (path / "words").write_text("one")
    manifest = seal(Manifest(kind=Kind.DATASET, created_by="dataprep"), path, {})
    (path / "manifest.json").write_bytes(manifest.to_json())
    return path


def run(folder: Path) -> Manifest:
    """Count with `folder` as the input, as the command line does; return what was made."""
    spec, output = folder.with_name("spec.yaml"), folder.with_name("output")
    spec.write_text("steps: 1\nstep_seconds: 0\n")
    parser = argparse.ArgumentParser()
    stages = {"count": COUNT}
    alone.add_arguments(parser, stages)
    alone.run(parser.parse_args([str(spec), "--input", f"words={folder}", "--output", str(output)]), stages)
    return Manifest.from_json((output / "manifest.json").read_bytes())


def test_an_artifact_is_named_as_parent(folder: Path) -> None:
    manifest = Manifest.from_json((folder / "manifest.json").read_bytes())
    assert run(folder).parents == {"words": str(manifest.ref)}


def test_a_folder_of_another_tool_is_a_plain_one(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"name": "an app", "version": 3}')
    assert run(folder).parents == {}


def test_files_that_are_not_the_manifests_are_refused(folder: Path) -> None:
    (folder / "words").write_text("two")
    with pytest.raises(Refused, match=r"is not the artifact that its manifest\.json names: words has SHA-256"):
        run(folder)
    (folder / "words").unlink()
    with pytest.raises(Refused, match="words is missing"):
        run(folder)


@pytest.mark.parametrize("share", [0.7, 1.0])
def test_a_damaged_manifest_of_ours_is_refused(share: float, folder: Path) -> None:
    text = (
        (folder / "manifest.json").read_text().replace("dataprep", "dataprop").replace('"spec": {}', '"spec": {"a": 1}')
    )
    (folder / "manifest.json").write_text(text[: int(len(text) * share)])
    with pytest.raises(Refused, match="is not the artifact that its"):
        run(folder)
