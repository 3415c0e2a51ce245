"""Whole runs: the fast path learns what the plain one learns, and one goes on where the other was killed."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainer.conftest import TINY_MODEL, Trained, letters, train, write_dataset
from tests.trainer.test_resume import go, losses, prepare

# On a GPU the fast path computes in bfloat16 only, and each path rounds in its own places.
DTYPE, NEAR = ("bfloat16", 3e-2) if torch.cuda.is_available() else ("float32", 2e-3)
EXACT: dict[str, Any] = {
    "lora_dropout": 0.0, "bnb_4bit_compute_dtype": DTYPE, "optim": "adamw_torch", "eval_steps": 5,
    "early_stopping_patience": 0,
}  # fmt: skip


def evaluations(result: Trained) -> list[float]:
    return [entry["eval_loss"] for entry in result.report.steps if "eval_loss" in entry]


@pytest.mark.parametrize("values", [{}, {"packing": True, "max_length": 64}])
def test_a_run_learns_what_the_plain_path_learns(tmp_path: Path, values: dict[str, Any]) -> None:
    dataset = write_dataset(tmp_path / "d", letters(7), letters(8))
    results = [
        train(tmp_path / path, dataset, fast_path=path, max_steps=10, **EXACT, **values) for path in ("on", "off")
    ]
    told = [[event["fast"] for event in each.report.of_type("fast_path")] for each in results]
    assert told == [[True], []]
    fast, plain = (
        [entry[figure] for entry in each.report.steps if "loss" in entry for figure in ("loss", "grad_norm")]
        for each in results
    )
    assert len(fast) == 20
    assert fast == pytest.approx(plain, rel=NEAR)
    assert evaluations(results[0]) == pytest.approx(evaluations(results[1]), rel=NEAR)
    assert results[0].manifest.metrics["tokens"] == results[1].manifest.metrics["tokens"]


@pytest.mark.parametrize(("first", "then"), [("on", "off"), ("off", "on")])
def test_a_killed_run_goes_on_on_the_other_path(tmp_path: Path, first: str, then: str) -> None:
    values = {**EXACT, "max_steps": 8, "eval_steps": 4, "save_steps": 3, "logging_steps": 1}
    folders = {name: prepare(tmp_path / name, **values, fast_path=then) for name in ("whole", "killed")}
    assert go(folders["whole"])[0] == 0
    spec = folders["killed"] / "spec.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "fast_path": first}), encoding="utf-8")
    assert go(folders["killed"], "checkpoint", 3)[0] == -signal.SIGKILL
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "fast_path": then}), encoding="utf-8")
    status, said = go(folders["killed"])
    assert status == 0
    assert "resume" in said["events"]
    whole, killed = (losses(folder) for folder in folders.values())
    assert [entry.keys() for entry in killed] == [entry.keys() for entry in whole]
    for found, wanted in zip(killed, whole, strict=True):
        assert list(found.values()) == pytest.approx(list(wanted.values()), rel=2 * NEAR)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a base larger than its GPU needs one")
@pytest.mark.parametrize("tied", [True, False])
def test_a_base_larger_than_the_gpu_is_trained_layer_by_layer_to_the_same_end(tmp_path: Path, tied: bool) -> None:  # noqa: FBT001
    dataset, base = (
        write_dataset(tmp_path / "d", letters(7), letters(8)),
        Path(shutil.copytree(TINY_MODEL, tmp_path / "b")),
    )
    if not tied:
        weights = load_file(base / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((base / "config.json").read_bytes())
        (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), encoding="utf-8")
    whole, parts = (
        train(tmp_path / name, dataset, base, fast_path="on", max_steps=10, vram_budget_gb=budget, **EXACT)
        for name, budget in (("whole", 0), ("parts", 1e-5))
    )
    assert "two layers" in next(text for kind, text, _ in parts.report.events if kind == "fast_path")
    figures = [[entry["loss"] for entry in each.report.steps if "loss" in entry] for each in (parts, whole)]
    assert figures[0] == pytest.approx(figures[1], rel=NEAR)
    assert evaluations(parts) == pytest.approx(evaluations(whole), rel=NEAR)
    assert len(parts.golden["prompts"]) == 4
    assert parts.manifest.metrics["total_parameters"] == whole.manifest.metrics["total_parameters"]
