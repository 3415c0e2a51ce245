"""The merge stage end to end: a true merge is measured and published; every sabotage is refused with its reason."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.merger.conftest import TINY, random_adapter, write_dataset
from tests.merger.test_plan import changed
from tunewright.artifacts import ArtifactRef, Kind, Manifest, file_sha256, seal
from tunewright.chassis.errors import InvalidData, InvalidSpec, Refused
from tunewright.merger import stage, streaming
from tunewright.merger.headers import TensorInfo
from tunewright.merger.plan import LowRank, MergePlan
from tunewright.merger.probes import Conversation, render
from tunewright.merger.spec import MergeSpec
from tunewright.merger.weights import Change, ReadRows, prepare

MakeReporter = Callable[..., Any]


@pytest.fixture
def run(
    dataset: Path, tmp_path: Path, make_reporter: MakeReporter
) -> Callable[..., tuple[Manifest, Path, list[dict[str, Any]]]]:
    """Return a function that runs the stage into a fresh folder."""

    def call(adapter: Path, base: Path = TINY, **facts: object) -> tuple[Manifest, Path, list[dict[str, Any]]]:
        output = tmp_path / f"output-{len(list(tmp_path.glob('output-*')))}"
        output.mkdir()
        report, events = make_reporter(**facts)
        inputs = {"adapter": adapter, "base": base, "dataset": dataset}
        return stage.run(MergeSpec(), inputs, output, report), output, events

    return call


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an adapter that moves the base far, as training does."""
    return random_adapter(TINY, tmp_path_factory.mktemp("strong") / "adapter", scale=0.2)


def swapped(adapter: Path, target: Path) -> Path:
    """Copy an adapter with the tensors of its two layers exchanged."""
    shutil.copytree(adapter, target)
    path = target / "adapter_model.safetensors"
    other = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}

    def twin(name: str) -> str:
        old = next(part for part in other if part in name)
        return name.replace(old, other[old])

    save_file({twin(name): tensor for name, tensor in load_file(path).items()}, path)
    return target


def other_base(target: Path) -> Path:
    """Copy the tiny model with the rows of its matrices shuffled: same shapes, another model."""
    shutil.copytree(TINY, target)
    torch.manual_seed(1)
    mixed = {
        name: tensor if tensor.ndim == 1 else tensor[torch.randperm(len(tensor))].contiguous()
        for name, tensor in load_file(TINY / "model.safetensors").items()
    }
    save_file(mixed, target / "model.safetensors", metadata={"format": "pt"})
    return target


def manifests(base: Path, adapter: Path, trained_on: ArtifactRef | None = None) -> dict[str, Any]:
    """Return what the chassis tells the stage about its inputs."""
    base_manifest = seal(
        Manifest(kind=Kind.MODEL, created_by="merger", base_model="tiny", base_revision="r1"), base, {}
    )
    draft = Manifest(kind=Kind.ADAPTER, created_by="trainer", spec={"lora_r": 4, "lora_alpha": 8.0}, base_model="tiny")
    adapter_manifest = seal(draft, adapter, {"base": trained_on or base_manifest.ref})
    found = {"base": base_manifest, "adapter": adapter_manifest}
    return {"manifests": {name: manifest.model_dump(mode="json") for name, manifest in found.items()}}


def test_a_true_merge_is_published_with_its_figures(run: Callable[..., Any], adapter: Path) -> None:
    manifest, output, events = run(adapter, **manifests(TINY, adapter))
    assert manifest.kind is Kind.MODEL
    assert 0 < manifest.metrics["merge_mean_kl"] < 1e-4
    assert manifest.metrics["merge_mean_kl"] <= manifest.metrics["merge_max_kl"] < 1e-3
    assert manifest.metrics["merge_top1_agreement"] > 0.97
    assert manifest.metrics["merge_max_abs_logit_diff"] < 0.1
    assert manifest.metrics["probes"] == 6
    assert manifest.metrics["golden_agreement"] == 1
    assert (manifest.base_model, manifest.base_revision) == ("tiny", "r1")
    assert manifest.tokenizer_sha256 == file_sha256(adapter / "tokenizer.json")
    record = json.loads((output / "merge.json").read_text("utf-8"))
    assert record["mean_kl"] == pytest.approx(manifest.metrics["merge_mean_kl"], rel=0.01)
    card = (output / "README.md").read_text("utf-8")
    assert "lora_alpha=8.0" in card
    assert "vllm serve" in card
    assert (output / "golden.json").read_bytes() == (adapter / "golden.json").read_bytes()
    assert {event["type"] for event in events} >= {"plan", "progress", "measured"}


def test_the_merged_folder_loads_plainly_and_answers_as_the_trained_model_did(
    run: Callable[..., Any], adapter: Path
) -> None:
    _, output, _ = run(adapter)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(str(output)), AutoTokenizer.from_pretrained(str(output))
    golden = json.loads((adapter / "golden.json").read_text("utf-8"))["prompts"][0]
    ids = tokenizer.apply_chat_template(golden["messages"], add_generation_prompt=True, return_dict=False)
    assert ids == golden["prompt_token_ids"]
    assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == golden["continuation_token_ids"][0]


def test_the_merged_model_also_stops_where_it_was_taught_to(
    run: Callable[..., Any], adapter: Path, tmp_path: Path
) -> None:
    taught = tmp_path / "taught"
    shutil.copytree(adapter, taught)
    golden = json.loads((taught / "golden.json").read_text("utf-8"))
    (taught / "golden.json").write_text(json.dumps({**golden, "end_token_ids": [256, 258]}), "utf-8")
    _, output, events = run(taught)
    assert json.loads((output / "generation_config.json").read_text("utf-8"))["eos_token_id"] == [258, 256]
    assert [event["data"]["added"] for event in events if event["type"] == "end_tokens"] == [[256]]


def test_two_runs_make_the_same_files_to_the_byte(run: Callable[..., Any], adapter: Path) -> None:
    (_, first, _), (_, second, _) = run(adapter), run(adapter)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert [file_sha256(first / name) for name in names] == [file_sha256(second / name) for name in names]


def test_a_changed_alpha_is_refused_by_the_manifest(run: Callable[..., Any], adapter: Path, tmp_path: Path) -> None:
    sabotaged = changed(adapter, tmp_path / "alpha", lora_alpha=16)
    with pytest.raises(Refused, match=r"lora_alpha=16\.0, the adapter was trained with 8\.0"):
        run(sabotaged, **manifests(TINY, sabotaged))


def test_a_changed_alpha_is_refused_by_the_golden_record_too(
    run: Callable[..., Any], strong: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="not the model that was trained"):
        run(changed(strong, tmp_path / "alpha", lora_alpha=64))


def test_swapped_layers_are_refused(run: Callable[..., Any], strong: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not the model that was trained"):
        run(swapped(strong, tmp_path / "swapped"))


def test_another_base_is_refused_by_the_manifest(run: Callable[..., Any], adapter: Path, tmp_path: Path) -> None:
    other = other_base(tmp_path / "other")
    real = seal(Manifest(kind=Kind.MODEL, created_by="merger"), TINY, {}).ref
    with pytest.raises(Refused, match=f"wrong base: the adapter was trained on {real}"):
        run(adapter, other, **manifests(other, adapter, trained_on=real))


def test_another_base_of_the_same_shape_is_refused_by_the_golden_record(
    run: Callable[..., Any], strong: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"not the model that was trained: .* it repeats \d%"):
        run(strong, other_base(tmp_path / "other"))


def test_a_foreign_vocabulary_is_refused(run: Callable[..., Any], adapter: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(adapter, foreign)
    path = foreign / "tokenizer.json"
    document = json.loads(path.read_text("utf-8"))
    vocabulary = document["model"]["vocab"]
    first, second = list(vocabulary)[64:66]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(Refused, match="foreign tokenizer: adapter and base differ in 2 tokens"):
        run(foreign)


def test_a_foreign_chat_template_is_refused(run: Callable[..., Any], adapter: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(adapter, foreign)
    path = foreign / "chat_template.jinja"
    path.write_text(path.read_text("utf-8").replace("<|im_end|>", "<|endoftext|>"), "utf-8")
    with pytest.raises(Refused, match="foreign tokenizer: held-out row 1"):
        run(foreign)


@pytest.mark.parametrize("fault", ["scaling", "transposed layers"])
def test_a_fault_in_our_own_merge_is_refused_by_the_comparison(
    fault: str, run: Callable[..., Any], strong: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(tensor: TensorInfo, plan: MergePlan, read: ReadRows) -> Change:
        """Prepare another change than the plan's."""
        change = plan.changes[tensor.name]
        assert isinstance(change, LowRank)
        if fault == "scaling":
            other = replace(change, scaling=change.scaling / 2)
        else:
            twin = {"layers.0.": "layers.1.", "layers.1.": "layers.0."}
            a, b = (name.replace(name[23:32], twin[name[23:32]]) for name in (change.a, change.b))
            other = replace(change, a=a, b=b)
        return prepare(tensor, replace(plan, changes={**plan.changes, tensor.name: other}), read)

    monkeypatch.setattr(streaming, "prepare", faulty)
    with pytest.raises(Refused, match=r"the merged model is not base \+ adapter: mean KL"):
        run(strong)


def test_a_quantised_base_is_refused(run: Callable[..., Any], adapter: Path, tmp_path: Path) -> None:
    base = tmp_path / "quantised"
    shutil.copytree(TINY, base)
    config = json.loads((base / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(Refused, match=r"quantised \(bitsandbytes\)"):
        run(adapter, base)


def test_missing_inputs_and_probes_are_named(adapter: Path, tmp_path: Path, make_reporter: MakeReporter) -> None:
    report, _ = make_reporter()
    with pytest.raises(InvalidSpec, match="'dataset' is missing"):
        stage.run(MergeSpec(), {"adapter": adapter, "base": TINY}, tmp_path, report)
    empty = write_dataset(tmp_path / "empty", 0)
    with pytest.raises(InvalidData, match=r"validation\.jsonl"):
        stage.run(MergeSpec(), {"adapter": adapter, "base": TINY, "dataset": empty}, tmp_path, report)


def test_nothing_of_an_earlier_attempt_is_published(run: Callable[..., Any], adapter: Path, tmp_path: Path) -> None:
    """What an attempt with other inputs left behind: other files of weights, a golden record, another candidate."""
    bare = tmp_path / "bare"
    shutil.copytree(adapter, bare, ignore=shutil.ignore_patterns("golden.json"))
    _, clean, _ = run(bare)
    left = stage.candidates_folder(tmp_path / "output-2")
    for name in ("full_precision/model-00001-of-00002.safetensors", "full_precision/stale.json", "dequantized/weights"):
        (left / name).parent.mkdir(parents=True, exist_ok=True)
        (left / name).write_text("stale")
    (left / "full_precision" / "golden.json").write_text('{"end_token_ids": [7]}')
    _, output, _ = run(bare)
    assert output.name == "output-2"
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in clean.iterdir())
    assert "model.safetensors" in {path.name for path in output.iterdir()}
    assert not left.exists()


def test_a_refused_merge_leaves_no_candidates(run: Callable[..., Any], strong: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not the model that was trained"):
        run(changed(strong, tmp_path / "alpha", lora_alpha=64))
    assert not list(tmp_path.glob("*.candidates"))


def test_probes_are_rendered_on_the_date_of_training() -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(TINY))
    messages = [{"role": "user", "content": "?"}]
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }}"
    assert tokenizer.decode(render(tokenizer, Conversation(messages))) == "2024-07-26"
