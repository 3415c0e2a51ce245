"""Exports are loaded back by real loaders and measured; what llama.cpp or vLLM would read otherwise is refused."""

import importlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GgufConfig

from tests.merger.conftest import TINY
from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidSpec, Refused
from tunewright.merger import exporting
from tunewright.merger.compressing import Compression
from tunewright.merger.gguf_file import without_marks, write_gguf
from tunewright.merger.spec import ExportSpec


@pytest.fixture
def export(dataset: Path, tmp_path: Path, make_reporter: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that exports a model into a fresh folder."""

    def call(format_: str, model: Path = TINY, **settings: object) -> tuple[Manifest, Path]:
        output = tmp_path / f"export-{len(list(tmp_path.glob('export-*')))}"
        output.mkdir()
        report, _ = make_reporter()
        spec = ExportSpec.from_mapping({"format": format_, "probe_count": 4, "probe_max_length": 48, **settings})
        return exporting.run(spec, {"model": model, "dataset": dataset}, output, report), output

    return call


def changed_model(target: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the tiny model with one of its JSON files changed."""
    shutil.copytree(TINY, target)
    document = json.loads((target / file).read_text("utf-8"))
    change(document)
    (target / file).write_text(json.dumps(document), "utf-8")
    return target


@pytest.mark.parametrize(
    ("format_", "settings", "share", "max_kl"),
    [
        ("fp8", {}, 0.70, 0.02),
        ("int4", {}, 0.50, 0.15),
        ("gguf", {"gguf_type": "bf16"}, 1.10, 1e-6),
        ("gguf", {"gguf_type": "q8_0"}, 0.70, 0.01),
    ],
)
def test_an_export_is_smaller_and_close_to_the_model_it_came_from(
    format_: str, settings: dict[str, object], share: float, max_kl: float, export: Callable[..., Any]
) -> None:
    manifest, output = export(format_, **settings)
    assert manifest.kind is Kind.MODEL
    assert manifest.metrics["export_mean_kl"] < max_kl
    assert manifest.metrics["export_weight_bytes"] < share * manifest.metrics["export_weight_bytes_before"]
    record = json.loads((output / "export.json").read_text("utf-8"))
    assert record["mean_kl"] == manifest.metrics["export_mean_kl"]
    assert record["eval_loss"] == pytest.approx(record["eval_loss_before"], rel=0.05)
    assert f"Exported as {format_}" in (output / "README.md").read_text("utf-8")
    assert not list(output.glob("*.partial"))


def test_a_compressed_model_says_so_in_its_config_and_loads_plainly(export: Callable[..., Any]) -> None:
    _, output = export("int4")
    config = json.loads((output / "config.json").read_text("utf-8"))["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    assert config["format"] == "pack-quantized"
    assert config["config_groups"]["group_0"]["weights"]["group_size"] == 64
    names = load_file(output / "model.safetensors")
    assert "model.layers.0.mlp.up_proj.weight_packed" in names
    assert names["model.embed_tokens.weight"].dtype is torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(str(output))
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 259)


def test_int4_takes_the_scale_of_least_squared_error() -> None:
    compression = Compression.of(TINY, "int4")
    name = min(compression.layers)
    weight = torch.zeros(8, 64, dtype=torch.bfloat16)
    weight[:, 1:33], weight[:, 0] = 0.7, 1.1  # the largest value's own scale would lose the many at 0.7
    found = compression.compress(name, weight)
    scale = found[f"{name}_scale"].float()
    assert (scale < 1.1 / 7.5).all()


def test_a_gguf_holds_the_same_weights_to_the_bit(export: Callable[..., Any]) -> None:
    _, output = export("gguf", gguf_type="bf16")
    found = AutoModelForCausalLM.from_pretrained(
        str(output), gguf_file="model.gguf", quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    ).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in load_file(TINY / "model.safetensors").items())


def test_an_export_that_strays_too_far_is_refused_with_its_figures(export: Callable[..., Any]) -> None:
    with pytest.raises(Refused, match=r"int4, loaded back: mean KL .* max_kl allows 1e-06"):
        export("int4", max_kl=1e-6)


def test_what_llama_cpp_would_read_otherwise_is_refused_by_name(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    other = changed_model(tmp_path / "other", "config.json", lambda config: config.update(model_type="gpt2"))
    with pytest.raises(Refused, match="models of type gpt2 are not exported"):
        write_gguf(other, output, "q8_0")
    scaled = changed_model(
        tmp_path / "scaled", "config.json", lambda config: config.update(rope_parameters={"rope_type": "yarn"})
    )
    with pytest.raises(Refused, match=r"positions of type .*yarn"):
        write_gguf(scaled, output, "q8_0")
    unigram = changed_model(
        tmp_path / "unigram", "tokenizer.json", lambda tokenizer: tokenizer["model"].update(type="Unigram")
    )
    with pytest.raises(Refused, match="a tokenizer of type Unigram"):
        write_gguf(unigram, output, "q8_0")


class _Generation(Extension):
    """What transformers makes of the mark: its body as it stands."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@pytest.mark.parametrize("dashes", ["", "-"])
def test_a_template_without_its_marks_renders_the_same(dashes: str) -> None:
    template = (
        f"Q\n{{%{dashes} generation {dashes}%}}\n  A {{{{ 'x' }}}}\n  {{%{dashes} endgeneration {dashes}%}}\nend\n"
    )
    how: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True}
    expected = Environment(extensions=[_Generation], **how).from_string(template).render()  # noqa: S701 - chat templates are no HTML
    assert Environment(**how).from_string(without_marks(template)).render() == expected  # noqa: S701 - likewise


LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def split_by(pattern: str) -> Callable[[dict[str, Any]], None]:
    """Return a change to a tokenizer: it splits by `pattern` and merges once."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    steps = [split, {"type": "ByteLevel", "use_regex": False}]

    def change(document: dict[str, Any]) -> None:
        document["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        document["model"]["merges"] = ["a b"]

    return change


def test_a_splitting_is_named_by_its_whole_pattern_and_the_first_token_is_told(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    model = changed_model(tmp_path / "llama", "tokenizer.json", split_by(LLAMA_3))
    config = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    special = json.loads((model / "tokenizer.json").read_text("utf-8"))["added_tokens"][0]
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": special["content"]}), "utf-8")
    write_gguf(model, output, "q8_0")
    reader = GGUFReader(output / "model.gguf")
    assert bytes(reader.fields["tokenizer.ggml.pre"].parts[-1]) == b"llama-bpe"
    assert int(reader.fields["tokenizer.ggml.bos_token_id"].parts[-1][0]) == special["id"]
    other = changed_model(tmp_path / "other", "tokenizer.json", split_by(LLAMA_3.replace("'s|", "")))
    with pytest.raises(Refused, match=r"splits by \['Split', 'ByteLevel'\] .*1,3"):
        write_gguf(other, output, "q8_0")


def test_a_missing_input_is_named(tmp_path: Path, make_reporter: Callable[..., Any]) -> None:
    report, _ = make_reporter()
    with pytest.raises(InvalidSpec, match="'dataset' is missing"):
        exporting.run(ExportSpec(format="fp8"), {"model": TINY}, tmp_path, report)


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
def test_llama_cpp_itself_gives_the_same_next_tokens(export: Callable[..., Any]) -> None:
    llama_cpp: Any = importlib.import_module("llama_cpp")

    _, output = export("gguf", gguf_type="bf16")
    engine = llama_cpp.Llama(str(output / "model.gguf"), n_ctx=64, logits_all=True, verbose=False)
    ids = list(range(40, 72))
    engine.eval(ids)
    model = AutoModelForCausalLM.from_pretrained(str(TINY), dtype=torch.float32)
    logits = model(torch.tensor([ids])).logits[0]
    theirs = torch.tensor(engine.scores[: len(ids)])
    torch.testing.assert_close(theirs, logits.detach(), rtol=0, atol=0.1)
