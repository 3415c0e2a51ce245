"""What the evaluator's tests stand on: one real vLLM a session that serves the tiny model and an adapter on it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.vllm_server import VllmServer, vllm_server
from tunewright.chassis.reporter import StageReporter

torch.set_num_threads(1)  # the tiny model's matrices are too small to share, and other tests want the cores

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_model"


def write_rows(folder: Path, conversations: list[list[dict[str, str]]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": hashlib.sha256(json.dumps(messages).encode()).hexdigest(),
            "messages": messages,
            "source": {"file": "raw.jsonl", "line": number},
        }
        for number, messages in enumerate(conversations, start=1)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "validation.jsonl").write_text(text, "utf-8")
    return folder


def pair(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="session")
def tiny() -> Path:
    return TINY


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random LoRA adapter for the tiny model with B not zero."""
    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(str(TINY), dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    tuned.save_pretrained(str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TINY / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Iterator[VllmServer]:
    """Return a real vLLM that serves `base` and `tuned`."""
    with vllm_server(TINY, tmp_path_factory.mktemp("vllm"), adapters={"tuned": adapter}) as server:
        yield server


@pytest.fixture
def runtime(engine: VllmServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return where both models answer; the key is in the environment."""
    monkeypatch.setenv("TUNEWRIGHT_ENGINE_KEY", engine.key)
    return {name: {"endpoint": engine.endpoint, "served_model_name": name} for name in ("base", "tuned")}


@pytest.fixture
def make_reporter(tmp_path: Path) -> Callable[..., tuple[StageReporter, list[dict[str, Any]]]]:
    """Return a factory of (reporter, list of its events) with the runtime given."""

    def make(**facts: Any) -> tuple[StageReporter, list[dict[str, Any]]]:  # noqa: ANN401 - JSON values
        events: list[dict[str, Any]] = []
        return StageReporter(events.append, tmp_path / "checkpoints", None, facts), events

    return make
