"""The committed tiny model is the one that its script makes, and fit for training and serving."""

import importlib.util
import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding

FIXTURES = Path(__file__).parents[1] / "fixtures"
COMMITTED = FIXTURES / "tiny_model"


def make_again(target: Path) -> Path:
    spec = importlib.util.spec_from_file_location("make_tiny_model", FIXTURES / "make_tiny_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    made: Path = module.make_tiny_model(target)
    return made


def test_the_script_makes_the_committed_files_again(tmp_path: Path) -> None:
    made = make_again(tmp_path / "tiny")
    assert {path.name for path in made.iterdir()} == {path.name for path in COMMITTED.iterdir()}
    for name in ("tokenizer.json", "chat_template.jinja", "config.json"):
        assert (made / name).read_text(encoding="utf-8") == (COMMITTED / name).read_text(encoding="utf-8")
    again, committed = (load_file(folder / "model.safetensors") for folder in (made, COMMITTED))
    assert again.keys() == committed.keys()
    assert all(torch.equal(again[name], committed[name]) for name in committed)


def test_it_is_small_enough_to_commit() -> None:
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) < 250_000


def test_padding_is_not_the_end_and_text_comes_back_whole() -> None:
    tokenizer = AutoTokenizer.from_pretrained(COMMITTED)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (256, 258)
    text = "a ▁ b  c\n<b> 你好 é 12"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(text)["input_ids"]) == len(text.encode())


def test_the_marks_cover_each_answer_and_its_end() -> None:
    tokenizer = AutoTokenizer.from_pretrained(COMMITTED)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    encoded = cast(
        "BatchEncoding", tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    )
    said = [token for token, mine in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mine]
    assert tokenizer.decode(said) == "Hello<|im_end|>"


@pytest.mark.parametrize("seed", range(3))
def test_the_best_next_token_stands_clear_of_rounding(seed: int) -> None:
    """Engines round differently; a fixture whose best logits tie in bf16 would make comparisons of them flaky."""
    model = AutoModelForCausalLM.from_pretrained(COMMITTED)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (4, 64), generator=generator)
    best = model(ids).logits.float().topk(2).values
    assert (best[..., 0] - best[..., 1]).mean() > 0.1
