"""Base models come in from a folder or a hub, and only safe, complete ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.merger.conftest import TINY
from tests.merger.hub_server import COMMIT, local_hub
from tunewright.artifacts import Kind, Manifest, file_sha256
from tunewright.chassis.errors import InvalidSpec, NotFound, Refused, Unavailable
from tunewright.merger import importing
from tunewright.merger.spec import ImportSpec

MakeReporter = Callable[..., Any]
FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an import root with the tiny model in `org/tiny`."""
    shutil.copytree(TINY, tmp_path / "root" / "org" / "tiny")
    return tmp_path / "root"


@pytest.fixture
def run(root: Path, tmp_path: Path, make_reporter: MakeReporter) -> Callable[..., tuple[Manifest, Path]]:
    """Return a function that runs the import stage into a fresh folder."""

    def call(source: str, revision: str = "", import_root: Path | None = root) -> tuple[Manifest, Path]:
        output = tmp_path / f"output-{len(list(tmp_path.glob('output-*')))}"
        output.mkdir()
        report, _ = make_reporter(import_root=str(import_root) if import_root else None)
        return importing.run(ImportSpec(source=source, revision=revision), {}, output, report), output

    return call


@pytest.fixture
def hub_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Point the hub's cache at a folder of this test's own."""
    from huggingface_hub import constants  # noqa: PLC0415 - read at import, so it is changed there

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return monkeypatch


def test_a_folder_comes_in_with_its_identity(run: Callable[..., Any], root: Path) -> None:
    (root / "org" / "tiny" / "evil.py").write_text("raise SystemExit")
    (root / "org" / "tiny" / "pytorch_model.bin").write_bytes(b"pickle")
    manifest, output = run("org/tiny")
    assert {path.name for path in output.iterdir()} == FILES
    assert manifest.kind is Kind.MODEL
    assert manifest.base_model == "org/tiny"
    assert manifest.base_revision.startswith("folder-")
    assert manifest.tokenizer_sha256 == file_sha256(TINY / "tokenizer.json")
    assert manifest.chat_template_sha256 == file_sha256(TINY / "chat_template.jinja")
    assert file_sha256(output / "model.safetensors") == file_sha256(TINY / "model.safetensors")


def test_a_changed_folder_has_another_fingerprint_and_the_old_one_is_refused(
    run: Callable[..., Any], root: Path
) -> None:
    before = run("org/tiny")[0].base_revision
    assert run("org/tiny", before)[0].base_revision == before
    weights = root / "org" / "tiny" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(InvalidSpec, match="no longer the folder that was asked for"):
        run("org/tiny", before)
    assert run("org/tiny")[0].base_revision != before


def edit_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **fields}), "utf-8")


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle weights only": (only_pickles, r"only pickle weights \(pytorch_model\.bin\)"),
    "remote code": (lambda f: edit_json(f / "config.json", auto_map={"AutoModel": "m.M"}), r"auto_map in config\.json"),
    "remote tokenizer": (
        lambda f: edit_json(f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]}),
        r"auto_map in tokenizer_config\.json",
    ),
    "quantised": (
        lambda f: edit_json(f / "config.json", quantization_config={"quant_method": "awq"}),
        r"quantised \(awq\)",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    "no chat template": (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
    "no config": (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    "weights cut short": (cut_short, r"model\.safetensors is damaged"),
    "weights are no safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04"),
        "not a safetensors file",
    ),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_an_unsafe_or_incomplete_folder_is_refused_by_name(fault: str, run: Callable[..., Any], root: Path) -> None:
    spoil, words = SPOILED[fault]
    spoil(root / "org" / "tiny")
    with pytest.raises(Refused, match=words) as caught:
        run("org/tiny")
    assert caught.value.remedy


def test_paths_out_of_the_import_root_are_refused(run: Callable[..., Any], root: Path) -> None:
    with pytest.raises(Refused, match="outside the import root"):
        run(str(TINY))
    with pytest.raises(Refused, match="outside the import root"):
        run("org/../../elsewhere")
    (root / "link").symlink_to(TINY)
    with pytest.raises(Refused, match="outside the import root"):
        run("link")
    (root / "org" / "tiny" / "model.safetensors").unlink()
    (root / "org" / "tiny" / "model.safetensors").symlink_to(TINY / "model.safetensors")
    with pytest.raises(Refused, match=r"model\.safetensors is a symbolic link that leaves"):
        run("org/tiny")


def test_a_folder_is_refused_where_no_import_root_is_set(run: Callable[..., Any]) -> None:
    with pytest.raises(Refused, match="no import root"):
        run("/models/x", import_root=None)


def test_a_model_comes_from_a_hub_at_its_commit_without_pickles_and_code(
    run: Callable[..., Any], tmp_path: Path, hub_environment: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "on-hub"
    shutil.copytree(TINY, folder)
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    with local_hub({"owner/model": folder}) as hub:
        hub_environment.setenv("HF_ENDPOINT", hub.endpoint)
        manifest, output = run("owner/model")
        assert {path.name for path in output.iterdir()} == FILES
        assert manifest.base_revision == COMMIT
        assert file_sha256(output / "model.safetensors") == file_sha256(TINY / "model.safetensors")
        assert not {"modeling_evil.py", "pytorch_model.bin"} & set(hub.fetched)


def test_what_a_hub_does_not_have_is_named_with_the_hub_that_was_asked(
    run: Callable[..., Any], hub_environment: pytest.MonkeyPatch
) -> None:
    with local_hub({"owner/model": TINY}, gated="owner/gated") as hub:
        hub_environment.setenv("HF_ENDPOINT", hub.endpoint)
        with pytest.raises(NotFound, match=f"{hub.endpoint} has no model 'owner/unknown'"):
            run("owner/unknown")
        with pytest.raises(NotFound, match="no revision 'v9'"):
            run("owner/model", "v9")
        with pytest.raises(Refused, match=r"owner/gated is gated") as caught:
            run("owner/gated")
        assert "HF_TOKEN" in caught.value.remedy


def test_an_unsafe_model_on_a_hub_is_refused_before_its_weights_are_fetched(
    run: Callable[..., Any], tmp_path: Path, hub_environment: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "on-hub"
    shutil.copytree(TINY, folder)
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "m.M"})
    with local_hub({"owner/remote": folder}) as hub:
        hub_environment.setenv("HF_ENDPOINT", hub.endpoint)
        with pytest.raises(Refused, match="auto_map"):
            run("owner/remote")
        assert "model.safetensors" not in hub.fetched


def test_a_hub_that_does_not_answer_is_unavailable_with_the_ways_out(
    run: Callable[..., Any], hub_environment: pytest.MonkeyPatch
) -> None:
    hub_environment.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"the hub http://127\.0\.0\.1:1 does not answer for 'owner/model'") as caught:
        run("owner/model")
    assert "TUNEWRIGHT_IMPORT_ROOT" in caught.value.remedy
