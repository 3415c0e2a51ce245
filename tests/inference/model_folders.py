"""Makes what inference tests deploy: `python -m tests.inference.model_folders TARGET`, so that pytest needs no torch.

TARGET/golden    the tiny model with the golden.json that its own greedy answers give
TARGET/foreign   the tiny model with the golden.json of another chat template
TARGET/damaged   the tiny model with its weights cut short
TARGET/adapter   a LoRA adapter for the tiny model that does change its answers, with the golden.json of both together
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

TINY_MODEL = Path(__file__).parent.parent / "fixtures" / "tiny_model"
QUESTIONS = ("Why is the sky blue?", "def f(x):\n    return x", "天空为什么是蓝色的？", "Hello", "x" * 400)
"""The last one is longer than the tests' max_model_len."""
_NEW_TOKENS = 12


def make_all(target: Path) -> None:
    """Write all folders."""
    for name in ("golden", "foreign", "damaged"):
        shutil.copytree(TINY_MODEL, target / name)
    golden = _golden(_plain_model())
    (target / "golden" / "golden.json").write_text(json.dumps(golden))
    template = (target / "foreign" / "chat_template.jinja").read_text()
    (target / "foreign" / "chat_template.jinja").write_text(template.replace("'<|im_start|>' +", "'<|im_start|> ' +"))
    (target / "foreign" / "golden.json").write_text(json.dumps(golden))
    weights = target / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    _adapter(target / "adapter")


def _plain_model() -> Any:  # noqa: ANN401 - transformers and PEFT have no types
    import torch  # noqa: PLC0415 - this module is also imported for its constants
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    return AutoModelForCausalLM.from_pretrained(TINY_MODEL, dtype=torch.bfloat16)


def _golden(model: Any) -> dict[str, Any]:  # noqa: ANN401
    import torch  # noqa: PLC0415
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer: Any = AutoTokenizer.from_pretrained(TINY_MODEL)
    prompts = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        output = model.generate(
            input_ids=torch.tensor([ids]),
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        top = output.logits[0][0].float().topk(10)
        prompts.append(
            {
                "messages": messages,
                "prompt_token_ids": ids,
                "continuation_token_ids": output.sequences[0, len(ids) :].tolist(),
                "top_logits": list(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
            }
        )
    return {"schema_version": 1, "prompts": prompts}


def _adapter(folder: Path) -> None:
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(_plain_model(), config).eval()
    adapted.save_pretrained(str(folder))
    (folder / "golden.json").write_text(json.dumps(_golden(adapted)))
    (folder / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
