"""What the merger's tests stand on: the tiny model, real PEFT adapters for it, a few held-out rows, a reporter."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunewright.chassis.reporter import StageReporter

TINY = Path(__file__).parents[1] / "fixtures" / "tiny_model"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

torch.set_num_threads(1)  # the tiny model's matrices are too small to share, and other tests want the cores


def conversation(number: int) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": f"What is {number} plus {number}? 答え"},
        {"role": "assistant", "content": f"It is {2 * number}."},
    ]


def write_dataset(folder: Path, rows: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {"id": hashlib.sha256(str(number).encode()).hexdigest(), "messages": conversation(number), "source": {}}
        )
        for number in range(rows)
    ]
    (folder / "validation.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return folder


def random_adapter(base: Path, folder: Path, *, scale: float = 0.05, **settings: Any) -> Path:  # noqa: ANN401 - PEFT's
    """Make a LoRA adapter with B not zero, as PEFT saves it, with the base's tokenizer and a golden record."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **settings})
    tuned = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * scale)
            if "lora_magnitude_vector" in name:
                parameter.mul_(1 + torch.rand_like(parameter) * scale)
    tuned.save_pretrained(str(folder))
    config_path = folder / "adapter_config.json"
    document = json.loads(config_path.read_text("utf-8"))
    config_path.write_text(json.dumps({**document, "base_model_name_or_path": "tiny"}), "utf-8")
    (folder / "README.md").unlink(missing_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(base / name, folder / name)
    write_golden(tuned, base, folder)
    return folder


def write_golden(model: Any, base: Path, folder: Path) -> None:  # noqa: ANN401 - a PEFT model
    """Record greedy answers of `model`, as the trainer does at the end of a run."""
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    prompts = []
    for number in range(100, 104):
        messages = conversation(number)[:1]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        with torch.inference_mode():
            first = model(input_ids=torch.tensor([ids])).logits[0, -1].float().topk(8)
            answer = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
        prompts.append(
            {
                "messages": messages,
                "prompt_token_ids": ids,
                "continuation_token_ids": answer.tolist(),
                "top_logits": list(zip(first.indices.tolist(), first.values.tolist(), strict=True)),
            }
        )
    (folder / "golden.json").write_text(json.dumps({"prompts": prompts}), "utf-8")


@pytest.fixture(scope="session")
def tiny() -> Path:
    return TINY


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), 6)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a plain LoRA adapter; shared, so tests that change it copy it first."""
    return random_adapter(TINY, tmp_path_factory.mktemp("adapter") / "plain")


@pytest.fixture
def make_reporter(tmp_path: Path) -> Callable[..., tuple[StageReporter, list[dict[str, Any]]]]:
    """Return a factory of (reporter, list of its events) with the runtime given."""

    def make(**runtime: Any) -> tuple[StageReporter, list[dict[str, Any]]]:  # noqa: ANN401 - JSON values
        events: list[dict[str, Any]] = []
        return StageReporter(events.append, tmp_path / "checkpoints", None, runtime), events

    return make
