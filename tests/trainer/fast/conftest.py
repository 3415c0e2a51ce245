"""Small random decoders with adapters, and what plain PEFT and autograd make of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from tunewright.trainer.base import _keep_training_layout
from tunewright.trainer.device import Device
from tunewright.trainer.fast.arithmetic import IGNORED
from tunewright.trainer.fast.passes import Away, Keep, Plan
from tunewright.trainer.fast.path import FastPath
from tunewright.trainer.fast.placing import place
from tunewright.trainer.fast.planning import _arithmetic
from tunewright.trainer.fast.reading import read

CONFIGS: Mapping[str, Any] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LAYERS, WORDS = 3, 500
Gradients = dict[str, torch.Tensor]
Make = Callable[..., Any]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes a PEFT model over a base in NF4; no weight of it is near zero."""

    def made(
        kind: str,
        dtype: torch.dtype = torch.float32,
        targets: tuple[str, ...] = ALL,
        *,
        tied: bool = False,
        device: str = "cpu",
    ) -> Any:  # noqa: ANN401 - PEFT ships no types
        torch.manual_seed(0)
        config = CONFIGS[kind](
            hidden_size=128, intermediate_size=256, num_hidden_layers=LAYERS, num_attention_heads=4,
            num_key_value_heads=2, head_dim=32, vocab_size=WORDS, max_position_embeddings=512, sliding_window=None,
            tie_word_embeddings=tied,
        )  # fmt: skip
        made_base: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call] # transformers' own
        base = made_base.to(torch.bfloat16)
        with torch.no_grad():
            for name, parameter in base.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0, 0.3)
                elif "norm" in name:
                    parameter.uniform_(0.5, 1.5)
                else:
                    parameter.normal_(0, 0.06)
        folder: Path = tmp_path_factory.mktemp(kind)
        base.save_pretrained(folder)
        quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call] # transformers' own
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=quantization, device_map={"": device}, dtype=dtype
        )
        model.requires_grad_(requires_grad=False)
        _keep_training_layout(model)
        settings = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.0, target_modules=list(targets))
        model = get_peft_model(model, settings)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
            if "lora_B" in name:
                parameter.data.normal_(0, 0.05)
        return model

    return made


def rows(lengths: tuple[int, ...] = (40, 17, 64, 3)) -> dict[str, torch.Tensor]:
    """Return a padded batch; the second half of each row counts."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, WORDS, (len(lengths), max(lengths)), generator=generator)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
        labels[row, length // 2 : length] = ids[row, length // 2 : length]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def counted(batch: Mapping[str, torch.Tensor]) -> int:
    return int((batch["labels"][:, 1:] != IGNORED).sum())


def taken(model: Any) -> Gradients:  # noqa: ANN401
    """Return the gradients, and leave none."""
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def plain(model: Any, batch: Mapping[str, torch.Tensor], dtype: torch.dtype) -> tuple[float, Gradients]:  # noqa: ANN401
    """Return mean loss and gradients by PEFT, bitsandbytes and autograd."""
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
    flat = logits[:, :-1].reshape(-1, WORDS), batch["labels"][:, 1:].reshape(-1)
    loss = torch.nn.functional.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum") / counted(batch)
    loss.backward()  # type: ignore[no-untyped-call] # PyTorch's own
    return loss.item(), taken(model)


def fast(
    model: Any,  # noqa: ANN401
    batch: Mapping[str, torch.Tensor],
    dtype: torch.dtype = torch.float32,
    *,
    keep: Keep = Keep.ALL,
    tokens: int = 1024,
    dropout: float = 0.0,
    step: int = 0,
    away: Away = Away.NOTHING,
) -> tuple[float, Gradients]:
    """Return the same by the fast path."""
    device = Device(model.get_base_model().model.norm.weight.device.type, "a device", dtype)
    plan = Plan(tokens, (keep,) * LAYERS, away)
    decoder = place(model, read(model, device, _arithmetic(device)), plan)
    path = FastPath(decoder, plan, dropout=dropout, seed=3)
    count = counted(batch)
    losses = path.step(batch, count, step)
    return losses.nats.item() / count, taken(model)


def apart(found: Gradients, wanted: Gradients) -> float:
    """Return how far the gradients are off, all together, as a share of their norm."""
    assert found.keys() == wanted.keys()
    whole = torch.cat([wanted[name].flatten() for name in wanted])
    off = torch.cat([(found[name] - wanted[name]).flatten() for name in wanted])
    return float(off.norm() / whole.norm())
