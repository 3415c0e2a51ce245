"""Raw documents and raw preference pairs become what the trainer learns from, through the real stages."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_tool_mask import base_with, real, trainer_of
from tests.dataprep.preparation import prepare, prepare_inputs
from tests.dataprep.tool_rows import openai, sharegpt
from tests.trainer.conftest import TINY_MODEL
from tests.trainer.reporting import Recorder
from tunewright.artifacts import Kind, Manifest
from tunewright.dataprep.masking import BaseTokenizer
from tunewright.merger.probes import load_tokenizer, read_conversations, render
from tunewright.trainer.data import load_dataset
from tunewright.trainer.spec import TrainingSpec
from tunewright.trainer.stage import run

SMALL = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 5e-3}


def train(folder: Path, dataset: Path, base: Path = TINY_MODEL, **spec: Any) -> Manifest:  # noqa: ANN401 - JSON values
    """Train the tiny model for a few steps."""
    output = folder / "adapter"
    output.mkdir()
    inputs = {"dataset": dataset, "base": base}
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
    assert [message["role"] for message in probes[0].messages] == ["user"]


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
    assert [message["role"] for message in probes[0].messages] == ["user", "assistant"]


def test_raw_rows_with_tools_go_to_an_adapter_that_every_room_reads_alike(tmp_path: Path) -> None:
    base = base_with(real("qwen2_5"), tmp_path)
    upload = tmp_path / "upload"
    upload.mkdir()
    openais = [openai(f"Weather in {sentence(n)}?", f"Fine: {sentence(n)}") for n in range(16)]
    (upload / "openai.jsonl").write_text("".join(json.dumps(row) + "\n" for row in openais))
    shared = [sharegpt(f"Weather at {sentence(100 + n)}?") for n in range(16)]
    (upload / "sharegpt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shared))
    inputs = {"upload_000": upload, "base": base}
    prepared = prepare_inputs(tmp_path, inputs, duplicates={"near": False}, audit={"max_length": 2048})
    assert prepared.manifest.metrics["dropped"] == {}
    audit = json.loads((prepared.output / "audit.json").read_bytes())
    assert audit["refusal"] is None
    assert audit["uncounted"] == {"train": 0, "validation": 0}
    trained = train(tmp_path, prepared.output, base, max_length=2048, max_steps=2, per_device_train_batch_size=2)
    assert trained.metrics["best_eval_loss"] < trained.metrics["first_eval_loss"]
    learned, _ = load_dataset(prepared.output)
    encoder, shown = trainer_of(base, tmp_path), BaseTokenizer(base)
    for one in learned[:4]:
        ids, mask = encoder.audited(one, decode=True)
        found = shown.label([{"role": "tools", "content": json.dumps(one.tools)}, *one.messages])
        assert (found.ids, found.mask) == (ids, mask)
    (held, *_), tokenizer = read_conversations(prepared.output, 2), load_tokenizer(tmp_path / "adapter", "adapter")
    assert "get_weather" in tokenizer.decode(render(tokenizer, held))


def test_pairs_whose_prompt_uses_tools_go_to_an_adapter_of_dpo(tmp_path: Path) -> None:
    base = base_with(real("qwen2_5"), tmp_path)
    asked = openai()
    rows = [
        {
            "input": {
                "messages": [{"role": "user", "content": f"{sentence(n)}?"}, *asked["messages"][1:-1]],
                "tools": asked["tools"],
            },
            "preferred_output": [{"role": "assistant", "content": f"It is {n}."}],
            "non_preferred_output": [{"role": "assistant", "content": "Who knows."}],
        }
        for n in range(12)
    ]
    prepared = prepare(tmp_path, rows, split={"validation_fraction": 0.2}, duplicates={"near": False})
    small = {"max_length": 2048, "max_steps": 1, "per_device_train_batch_size": 2}
    trained = train(tmp_path, prepared.output, base, objective="dpo", **small)
    assert trained.metrics["train_rows"] == len(prepared.train)
    assert trained.metrics["first_eval_loss"] == pytest.approx(math.log(2), abs=1e-3)
