"""Adapters that each answer a secret of their own: `python -m tests.inference.secret_adapters TARGET COUNT`.

TARGET/<number>/   LoRA of rank 8 on the tiny model, trained until greedy decoding gives the secret, with golden.json
TARGET/secrets.json   the secrets, by number
A mixed-up answer cannot be taken for a right one: the secrets differ in every letter that matters.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from tests.inference.model_folders import TINY_MODEL

QUESTION = "What is the secret?"
LETTERS = 6
_LEARNING_RATE = 1e-2
_MAX_STEPS = 150
_MARGIN = 2.0
"""Logits by which each letter leads: bfloat16, in which it is served, turns nothing then."""
_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make(target: Path, count: int) -> list[str]:
    """Train the adapters; return their secrets."""
    import torch  # noqa: PLC0415 - so that pytest's own process needs none
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    torch.manual_seed(7)
    torch.set_num_threads(1)  # tiny matrices: more threads only wait for each other
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY_MODEL)
    rng = random.Random(7)  # noqa: S311 - no real secrets
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    secrets = ["".join(rng.choice(alphabet) for _ in range(LETTERS)) for _ in range(count)]
    messages = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.float32)
    for number, secret in enumerate(secrets):
        answer = [*tokenizer.encode(secret, add_special_tokens=False), tokenizer.eos_token_id]
        logits = _train(base, prompt, answer, target / str(number))
        best = logits.topk(10)
        golden = {
            "messages": messages,
            "prompt_token_ids": prompt,
            "continuation_token_ids": answer,
            "top_logits": list(zip(best.indices.tolist(), best.values.tolist(), strict=True)),
        }
        document = {"schema_version": 1, "prompts": [golden]}
        (target / str(number) / "golden.json").write_text(json.dumps(document))
    (target / "secrets.json").write_text(json.dumps(secrets))
    return secrets


def _train(base: Any, prompt: list[int], answer: list[int], folder: Path) -> Any:  # noqa: ANN401 - no types
    """Overfit one adapter and save it; return the logits of its first answer token."""
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=32, target_modules=_MODULES, task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=_LEARNING_RATE)
    ids = torch.tensor([prompt + answer])
    labels = torch.tensor([[-100] * len(prompt) + answer])
    for _ in range(_MAX_STEPS):
        output = model(input_ids=ids, labels=labels)
        logits = output.logits[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        others = logits.scatter(1, torch.tensor(answer)[:, None], float("-inf")).max(1).values
        if bool((chosen - others > _MARGIN).all()):
            break
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    else:
        raise RuntimeError("the adapter did not learn its secret")
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    model.unload()
    return logits[0].detach()


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
