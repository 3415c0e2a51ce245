"""What an adapter was trained on, the candidates against it, and the rule that picks one."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.merger.conftest import TINY, random_adapter, write_golden
from tests.merger.test_stage import manifests
from tunewright.artifacts import Manifest
from tunewright.chassis.errors import Refused
from tunewright.merger import stage
from tunewright.merger.candidates import Measured, choose, refuse_a_bad_merge, table
from tunewright.merger.comparison import Agreement
from tunewright.merger.dequantized import quantized_layers, round_trip
from tunewright.merger.quantization import Quantization
from tunewright.merger.spec import MergeSpec

NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}


def agreement(mean_kl: float) -> Agreement:
    return Agreement(mean_kl, 2 * mean_kl, 0.9, 1.0, 100, 4)


def measured(full: float, dequantized: float, losses: tuple[float, float] = (2.0, 2.0)) -> dict[str, Measured]:
    return {
        "full_precision": Measured(agreement(full), losses[0], agreement(1e-4)),
        "dequantized": Measured(agreement(dequantized), losses[1], agreement(1e-4)),
        "unmerged": Measured(agreement(full), losses[0]),
    }


def quantized_model(dtype: torch.dtype = torch.bfloat16) -> Any:  # noqa: ANN401 - transformers ships no types
    """Return the tiny model as the trainer loads it for QLoRA."""
    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call] # transformers' own
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return AutoModelForCausalLM.from_pretrained(
        str(TINY), quantization_config=settings, dtype=dtype, device_map={"": "cpu"}
    )


@pytest.fixture
def run(dataset: Path, tmp_path: Path, make_reporter: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that merges an adapter whose manifest says that it was trained in 4 bits."""

    def call(adapter: Path, **settings: Any) -> tuple[Manifest, Path, list[dict[str, Any]]]:  # noqa: ANN401 - a spec's
        output = tmp_path / "output"
        output.mkdir()
        trained = tmp_path / "trained"
        shutil.copytree(adapter, trained)
        write_golden(PeftModel.from_pretrained(quantized_model(), str(trained)).eval(), TINY, trained)
        facts = manifests(TINY, trained)
        facts["manifests"]["adapter"]["quantization"] = NF4
        report, events = make_reporter(**facts)
        inputs = {"adapter": trained, "base": TINY, "dataset": dataset}
        return stage.run(MergeSpec(**settings), inputs, output, report), output, events

    return call


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_after_the_round_trip_are_those_that_training_sees(dtype: torch.dtype) -> None:
    quantization = Quantization("nf4", double_quant=True, dtype=str(dtype).removeprefix("torch."))
    model, weights = quantized_model(dtype), load_file(TINY / "model.safetensors")
    layers = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert quantized_layers(TINY) == dict.fromkeys(layers, False)
    for name, module in layers.items():
        weight: Any = module.weight
        theirs = dequantize_4bit(weight.data, weight.quant_state)
        assert torch.equal(round_trip(weights[name], quantization), theirs), name


def test_a_settings_record_that_cannot_be_repeated_is_refused() -> None:
    assert Quantization.read(None) is None
    assert Quantization.read(NF4) == Quantization("nf4", double_quant=True, dtype="bfloat16")
    with pytest.raises(Refused, match=r"quantised as .*gptq"):
        Quantization.read({"quant_method": "gptq"})


def test_auto_publishes_what_is_nearest_to_the_model_as_trained(run: Callable[..., Any], adapter: Path) -> None:
    manifest, output, events = run(adapter)
    found = manifest.metrics["candidates"]
    assert list(found) == ["full_precision", "dequantized", "unmerged"]
    assert manifest.metrics["merge"] == "dequantized"
    assert found["dequantized"]["mean_kl"] < 1e-3
    assert found["full_precision"]["mean_kl"] > 0.01
    assert found["unmerged"]["mean_kl"] == pytest.approx(found["full_precision"]["mean_kl"], rel=0.05)
    assert manifest.metrics["merge_mean_kl"] < 1e-3
    assert manifest.metrics["eval_loss"] == pytest.approx(manifest.metrics["trained_eval_loss"], rel=1e-3)
    record = json.loads((output / "merge.json").read_text("utf-8"))
    assert record["candidates"] == found
    ratios = record["quantization_error_over_delta"]
    assert len(ratios) == 2 * 7
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios.values())
    told = next(event for event in events if event["type"] == "measured")
    assert "| dequantized (chosen) |" in told["message"]
    assert "| dequantized (chosen) |" in (output / "README.md").read_text("utf-8")
    assert not list(output.parent.glob("*.candidates"))


def test_the_published_weights_are_the_dequantised_ones_with_the_adapter_added(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """Some layers have adapters, the others are dequantised alone; PEFT's own merge says what is right."""
    adapter = random_adapter(TINY, tmp_path / "some", target_modules=["q_proj", "up_proj"])
    _, output, _ = run(adapter, merge="dequantized")
    base = AutoModelForCausalLM.from_pretrained(str(TINY), dtype=torch.bfloat16)
    for name, module in quantized_model().named_modules():
        if isinstance(module, Linear4bit):
            packed: Any = module.weight
            base.get_submodule(name).weight.data = dequantize_4bit(packed.data, packed.quant_state)
    theirs = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().state_dict()
    for name, tensor in load_file(output / "model.safetensors").items():
        assert torch.equal(tensor, theirs[name]), name


def test_full_precision_can_be_asked_for_and_is_still_measured(run: Callable[..., Any], adapter: Path) -> None:
    manifest, output, _ = run(adapter, merge="full_precision")
    assert manifest.metrics["merge"] == "full_precision"
    assert list(manifest.metrics["candidates"]) == ["full_precision", "unmerged"]
    assert manifest.metrics["trained_mean_kl"] > 0.01
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(str(TINY), dtype=torch.bfloat16), str(adapter)
    )
    merged = theirs.merge_and_unload().state_dict()
    assert all(torch.equal(tensor, merged[name]) for name, tensor in load_file(output / "model.safetensors").items())


def test_below_the_threshold_nothing_is_published_and_the_table_is_shown(
    run: Callable[..., Any], adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"nats/token from the model as trained.*\n\| candidate") as refused:
        run(adapter, merge="full_precision", max_trained_kl=1e-3)
    assert "| full_precision (chosen) |" in refused.value.message
    assert not list((tmp_path / "output").iterdir())


def test_a_dequantized_merge_of_an_adapter_from_full_precision_is_refused() -> None:
    only = {name: found for name, found in measured(0.0, 0.0).items() if name != "dequantized"}
    assert choose(only, "auto") == "full_precision"
    with pytest.raises(Refused, match="it was not made; full_precision was"):
        choose(only, "dequantized")


@pytest.mark.parametrize(("known", "why"), [(True, "trained on a base in full precision"), (False, "has no manifest")])
def test_a_dequantized_merge_that_cannot_be_made_is_refused_before_anything_is_written(
    *, known: bool, why: str, adapter: Path, dataset: Path, tmp_path: Path, make_reporter: Callable[..., Any]
) -> None:
    report, _ = make_reporter(**(manifests(TINY, adapter) if known else {}))
    inputs = {"adapter": adapter, "base": TINY, "dataset": dataset}
    with pytest.raises(Refused, match=why):
        stage.run(MergeSpec(merge="dequantized"), inputs, tmp_path / "output", report)
    assert not list(tmp_path.glob("output*"))


def test_a_base_whose_names_are_not_transformers_is_refused_with_that_reason(
    run: Callable[..., Any], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunewright.merger.dequantized.quantized_layers", lambda _: {"other.weight": False})
    with pytest.raises(Refused, match=r"the base stores other\.weight otherwise than transformers names it"):
        run(adapter, merge="dequantized")
    assert not list(tmp_path.glob("*.candidates"))


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        (measured(0.05, 0.001), "dequantized"),
        (measured(0.001, 0.05), "full_precision"),
        (measured(0.00100001, 0.001, losses=(2.0, 2.1)), "full_precision"),  # the same to 3 digits: the lower loss
        (measured(0.00100001, 0.001, losses=(2.1, 2.0)), "dequantized"),
        (measured(0.001, 0.001), "full_precision"),
        (measured(float("nan"), 0.3), "dequantized"),
    ],
)
def test_the_rule(found: dict[str, Measured], chosen: str) -> None:
    assert choose(found, "auto") == chosen


def test_a_figure_that_is_no_number_is_refused() -> None:
    found = measured(float("nan"), 0.001)
    with pytest.raises(Refused, match="nan nats/token from the model as trained"):
        refuse_a_bad_merge(found, "full_precision", max_kl=0.003, max_trained_kl=0.5)
    refuse_a_bad_merge(found, "dequantized", max_kl=0.003, max_trained_kl=0.5)
    assert table(found, "dequantized").count("\n") == 4
