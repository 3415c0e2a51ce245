"""The demo's base model: converted for real, with everything that GGUF loses put back."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from demo import base_model

# What SmolLM2 itself carries as its template, copied from the model's GGUF metadata.
ORIGINAL_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = [
    {"role": "user", "content": " What is 12 + 30?\n"},
    {"role": "assistant", "content": "42 "},
    {"role": "user", "content": "Grüße, 你好"},
    {"role": "assistant", "content": ""},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    try:
        base_model.packaged_folder()
    except base_model.BaseModelError as error:
        pytest.skip(str(error))
    return base_model.make_base_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(folder))


@pytest.mark.heavy
def test_end_of_turn_and_padding_are_two_tokens_everywhere(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for name in ("config.json", "generation_config.json"):
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        assert (config["eos_token_id"], config["pad_token_id"]) == (2, 0)


@pytest.mark.heavy
def test_numbers_are_read_digit_by_digit_and_text_comes_back_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("I paid 1234") == ["I", "Ġpaid", "Ġ", "1", "2", "3", "4"]
    text = "a ▁ b  c\n\t<b>&amp;</b> 你好 naïve 1.5e-3"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.heavy
@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_the_marked_template_renders_the_original_text(
    tokenizer: PreTrainedTokenizerFast, system: list[dict[str, str]], length: int
) -> None:
    for prompt in (False, True):
        rendered = [
            tokenizer.apply_chat_template(
                system + TURNS[:length], tokenize=False, add_generation_prompt=prompt, chat_template=template
            )
            for template in (None, ORIGINAL_TEMPLATE)
        ]
        assert rendered[0] == rendered[1]


@pytest.mark.heavy
def test_the_marks_cover_each_answer_and_its_end(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = cast(
        "BatchEncoding", tokenizer.apply_chat_template(TURNS, return_dict=True, return_assistant_tokens_mask=True)
    )
    said = [token for token, mine in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mine]
    assert tokenizer.decode(said) == "42 <|im_end|><|im_end|>"


@pytest.mark.heavy
def test_the_model_answers_and_stops(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = cast(
        "BatchEncoding",
        tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True),
    )
    output = model.generate(**prompt, max_new_tokens=32, do_sample=False)  # type: ignore[misc]
    answer = output[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.heavy
def test_a_finished_folder_is_complete_readable_and_left_alone(folder: Path) -> None:
    files = {path.name: path.stat() for path in folder.iterdir()}
    assert {"LICENSE", "README.md", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"} <= set(
        files
    )
    assert all(stat.st_mode & 0o444 == 0o444 for stat in files.values())
    assert "Apache" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert base_model.make_base_model(folder) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == {
        name: stat.st_mtime_ns for name, stat in files.items()
    }
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_with_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(base_model.BaseModelError, match="holds no model"):
        base_model.make_base_model(tmp_path)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(base_model, "PACKAGE", "no_such_package_anywhere")
    with pytest.raises(base_model.BaseModelError, match=r"requirements/demo\.txt"):
        base_model.make_base_model(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_another_model_in_the_package_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(base_model, "GGUF_SHA256", "0" * 64)
    with pytest.raises(base_model.BaseModelError, match="sha256"):
        base_model.make_base_model(tmp_path / "base")
