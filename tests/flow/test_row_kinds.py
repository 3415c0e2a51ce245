"""Raw documents and raw preference pairs become what the trainer learns from, through the real stages."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.dataprep.preparation import prepare, prepare_inputs
from tests.flow.conftest import ROOT
from tests.trainer.reporting import Recorder
from tunewright.artifacts import Kind, Manifest
from tunewright.merger.probes import read_conversations
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stage import run

SMALL = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 5e-3}


def train(folder: Path, dataset: Path, **spec: Any) -> Manifest:  # noqa: ANN401 - JSON values
    """Train the tiny model for a few steps."""
    output = folder / "adapter"
    output.mkdir()
    inputs = {"dataset": dataset, "base": ROOT / "tests" / "fixtures" / "tiny_model"}
    return run(TrainingSpec.from_mapping({**SMALL, **spec}), inputs, output, Recorder(folder / "checkpoints"))


def sentence(number: int) -> str:
    return f"Harbour {number} lies {number * 7} miles from the old town of {chr(65 + number % 26) * 3}."


def test_raw_text_goes_from_files_to_an_adapter_of_continued_pre_training(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(6):
        paragraphs = (" ".join(sentence(10 * number + n) for n in range(3)) for number in range(number, number + 3))
        (folder / f"{number}.txt").write_text("\n\n".join(paragraphs))
    (folder / "page.html").write_text(f"<html><body><p>{sentence(800)}</p><p>{sentence(900)}</p></body></html>")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": sentence(n)}) + "\n" for n in range(300, 320)))
    prepared = prepare_inputs(tmp_path, {"upload_000": folder}, split={"validation_fraction": 0.2})
    assert prepared.manifest.metrics["row_kind"] == "text"
    assert prepared.validation
    trained = train(tmp_path, prepared.output, objective="cpt")
    assert trained.kind is Kind.ADAPTER
    assert trained.metrics["train_rows"] >= len(prepared.train)
    assert trained.metrics["best_eval_loss"] < trained.metrics["first_eval_loss"]
    probes = read_conversations(prepared.output, 2)
    assert [message["role"] for message in probes[0]] == ["user"]


def test_raw_preference_pairs_go_to_an_adapter_of_dpo(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Where is harbour {n}?", "chosen": f"Harbour {n} is north.", "rejected": f"Who knows {n}, go away."}
        for n in range(24)
    ]
    prepared = prepare(
        tmp_path, rows, split={"validation_fraction": 0.2}, duplicates={"near": False}, format="preference"
    )
    assert prepared.manifest.metrics["row_kind"] == "preference"
    trained = train(tmp_path, prepared.output, objective="dpo")
    assert trained.metrics["train_rows"] == len(prepared.train)
    assert trained.metrics["first_eval_loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert trained.metrics["best_eval_loss"] < trained.metrics["first_eval_loss"]
    probes = read_conversations(prepared.output, 2)
    assert [message["role"] for message in probes[0]] == ["user", "assistant"]
