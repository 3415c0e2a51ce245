"""Model FLOPs utilisation: what a token needs, over what known cards can do; nothing where neither is known."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from tests.trainer.conftest import TINY_MODEL, letters, train, write_dataset
from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import Refused
from tunewright.trainer import adapters
from tunewright.trainer.base import load_base
from tunewright.trainer.device import Device
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.utilisation import operations_a_token, utilisation

H100 = Device("cuda", "NVIDIA H100 80GB HBM3", torch.bfloat16)


def tiny(**values: object) -> tuple[torch.nn.Module, TrainingSpec]:
    spec = TrainingSpec.from_mapping(values)
    cpu = Device("cpu", "CPU", torch.float32)
    return adapters.make_trainable(load_base(TINY_MODEL, spec, cpu)[0], spec), spec


def linear_weights(model: torch.nn.Module, part: str = "") -> int:
    return sum(
        module.in_features * module.out_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and part in name
    )


def test_a_frozen_weight_counts_four_operations_and_a_trained_one_six() -> None:
    model, spec = tiny(method="lora", lora_r=4)
    adapter = linear_weights(model, "lora_")
    base = linear_weights(model) - adapter
    assert adapter > 0
    assert operations_a_token(model, spec) == 4 * base + 6 * adapter
    whole, full = tiny(method="full")
    assert operations_a_token(whole, full) == 6 * base
    pairs, dpo = tiny(method="lora", lora_r=4, objective="dpo")
    assert operations_a_token(pairs, dpo) == 6 * base + 8 * adapter


def test_weights_in_four_bits_count_as_many_as_they_are() -> None:
    counts = [operations_a_token(*tiny(method=method, lora_r=4)) for method in ("qlora", "lora")]
    assert counts[0] == counts[1] > 0


def test_the_measured_rate_of_a_7b_on_an_h100_is_47_percent_and_on_two_half_of_it() -> None:
    # 16,507 tokens a second, 7.07e9 weights: bench/results/qlora_fast_h100.json; 989e12 by the data sheet.
    assert utilisation(4 * 7.07e9, 16_507, H100, 1) == pytest.approx(0.472, abs=5e-4)
    assert utilisation(4 * 7.07e9, 16_507, H100, 2) == pytest.approx(0.236, abs=5e-4)


@pytest.mark.parametrize(
    "device",
    [
        Device("cpu", "CPU, 2 threads", torch.bfloat16),
        Device("cuda", "Some Card 1", torch.bfloat16),
        Device("cuda", "NVIDIA H100 80GB HBM3", torch.float32),
    ],
    ids=["CPU", "unknown card", "float32"],
)
def test_where_the_peak_is_not_known_nothing_is_said(device: Device) -> None:
    assert utilisation(1e9, 1000, device, 1) is None


def test_a_tracker_that_is_not_installed_is_refused_by_name_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_REPORT_TO", "trackio")
    dataset = write_dataset(tmp_path / "d", letters(4))
    report = Recorder(tmp_path / "checkpoints")
    with pytest.raises(Refused, match="TUNEWRIGHT_REPORT_TO is trackio, and the package trackio is not") as caught:
        train(tmp_path / "run", dataset, report=report)
    assert "pip install trackio" in caught.value.remedy
    assert report.of_type("device") == []


class Fails(TrainerCallback):
    """A tracker whose store takes nothing more after the first figures."""

    heard: list[str] = []  # noqa: RUF012 - transformers makes the object

    def on_log(self, *_: object, **__: object) -> None:
        self.heard.append("log")
        if len(self.heard) == 2:
            raise OSError("the store is in maintenance mode\nand more of it")


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_REPORT_TO", "trackio")
    monkeypatch.setattr("tunewright.trainer.trackers.find_spec", lambda _: True)
    monkeypatch.setattr("tunewright.trainer.trackers.get_reporting_integration_callbacks", lambda _: [Fails])
    Fails.heard.clear()
    result = train(tmp_path / "run", write_dataset(tmp_path / "d", letters(8)), max_steps=4)
    (event,) = result.report.of_type("tracker")
    assert (event["tracker"], event["event"]) == ("trackio", "on_log")
    (text,) = [message for kind, message, _ in result.report.events if kind == "tracker"]
    assert text.endswith("hears no more of this run, which goes on (OSError: the store is in maintenance mode)")
    assert len(Fails.heard) == 2
    assert result.manifest.metrics["steps"] == 4
