"""Golden answers: what the trained model says to held-out prompts, token by token, for whoever merges or serves it.

Greedy, without penalties or sampling; the model as it was trained: base in NF4 or not, adapter, compute type.
Knows no files.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from tunewright.trainer.data import Row
from tunewright.trainer.device import Device
from tunewright.trainer.encoding import Encoder

SCHEMA_VERSION = 1
_PROMPTS = 4
_MAX_NEW_TOKENS = 16
_TOP_LOGITS = 10


def golden_answers(
    model: Any,  # noqa: ANN401 - PEFT ships no types
    encoder: Encoder,
    held_out: Sequence[Row],
    train: Sequence[Row],
    *,
    device: Device,
    end_ids: set[int],
    pad_id: int,
) -> dict[str, Any]:
    """Return the document of golden.json.

    Per prompt: whether its template writes a date, messages and definitions of tools, their token ids, the answer's
    token ids, and the first step's highest logits as pairs of token id and logit. Prompts come from `held_out`, and
    from `train` only where that is too short.
    """
    chosen = [("validation", row) for row in held_out[:_PROMPTS]]
    chosen += [("train", row) for row in train[: _PROMPTS - len(chosen)]]
    model.eval()
    model.gradient_checkpointing_disable()
    # A fresh one: a base's own may carry penalties or temperatures.
    plain = GenerationConfig(  # type: ignore[no-untyped-call] # transformers' own
        max_new_tokens=_MAX_NEW_TOKENS,
        do_sample=False,
        eos_token_id=sorted(end_ids),
        pad_token_id=pad_id,
        use_cache=True,
    )
    # PEFT generates by its own config with adapters, and by the base's with a soft prompt.
    model.generation_config = plain
    if isinstance(model, PeftModel):
        base: Any = model.get_base_model()
        base.generation_config = plain
    return {
        "schema_version": SCHEMA_VERSION,
        "max_new_tokens": _MAX_NEW_TOKENS,
        "end_token_ids": sorted(end_ids),
        "compute_dtype": str(device.compute_dtype).removeprefix("torch."),
        "prompts": [_answer(model, encoder, source, row, device) for source, row in chosen],
    }


def _answer(model: Any, encoder: Encoder, source: str, row: Row, device: Device) -> dict[str, Any]:  # noqa: ANN401
    prompt = encoder.prompt_ids(row)
    ids = torch.tensor([prompt], device=device.type)
    mixed = device.compute_dtype is not torch.float32
    autocast = torch.autocast(device.type, dtype=device.compute_dtype, enabled=mixed)
    with torch.inference_mode(), autocast, warnings.catch_warnings():
        # Said for soft prompts, which shift all positions; one unpadded row needs no position ids.
        warnings.filterwarnings("ignore", message="Position ids are not supported")
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True
        )
    top = output.logits[0][0].float().topk(_TOP_LOGITS)
    return {
        "source": source,
        "row_id": row.id,
        "dated": encoder.asks_for_date,
        "messages": [{key: message[key] for key in message if key != "weight"} for message in row.prompt()],
        "tools": list(row.tools),
        "prompt_token_ids": prompt,
        "continuation_token_ids": output.sequences[0, len(prompt) :].tolist(),
        "top_logits": [list(pair) for pair in zip(top.indices.tolist(), top.values.tolist(), strict=True)],
    }
