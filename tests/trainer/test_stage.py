"""A real training run on a tiny model: it learns, stops, keeps the best, and leaves a whole adapter behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.trainer.conftest import TINY_MODEL, Trained, exchange, letters, set_up, train, write_dataset
from tests.trainer.reporting import Recorder
from tunewright.artifacts import Kind
from tunewright.chassis.errors import InvalidData, Refused
from tunewright.trainer import adapters, attempts
from tunewright.trainer.base import load_tokenizer
from tunewright.trainer.data import load_dataset


def evaluations(result: Trained) -> dict[int, float]:
    """Step → loss on the held-out rows."""
    return {int(entry["step"]): entry["eval_loss"] for entry in result.report.steps if "eval_loss" in entry}


def test_loss_falls_until_eight_rows_are_known_by_heart(memorised: Trained) -> None:
    losses = evaluations(memorised)
    assert losses[0] > 4
    # Its head is tied to frozen embeddings of norm 0.8 and its last hidden state has norm 8, so no logit passes 6.4 and
    # no token of 259 gets more than 0.7: plain PEFT and torch end in 0.42 too.
    assert losses[50] < 0.5
    taught = [conversation[1]["content"] for conversation in letters(8)]
    tokenizer = load_tokenizer(TINY_MODEL, Recorder(memorised.output.parent / "unused"))
    answers = [tokenizer.decode(prompt["continuation_token_ids"][:-1]) for prompt in memorised.golden["prompts"]]
    assert answers == taught[:4]
    assert memorised.manifest.metrics["first_eval_loss"] == losses[0]
    assert memorised.manifest.metrics["best_eval_loss"] == min(losses[25], losses[50])


def test_the_model_stops_after_what_it_learned(memorised: Trained) -> None:
    end = memorised.golden["end_token_ids"]
    answers = [prompt["continuation_token_ids"] for prompt in memorised.golden["prompts"]]
    assert len(answers) == 4
    assert all(len(answer) == 5 and answer[-1] in end for answer in answers)


def test_the_first_golden_token_has_the_highest_logit(memorised: Trained) -> None:
    for prompt in memorised.golden["prompts"]:
        logits = [logit for _, logit in prompt["top_logits"]]
        assert logits == sorted(logits, reverse=True)
        assert prompt["top_logits"][0][0] == prompt["continuation_token_ids"][0]


def test_the_adapter_loads_in_plain_peft_and_gives_the_golden_tokens(memorised: Trained) -> None:
    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call] # transformers' own
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=memorised.golden["compute_dtype"],
    )
    base = AutoModelForCausalLM.from_pretrained(TINY_MODEL, quantization_config=quantization, device_map="cpu")
    model = PeftModel.from_pretrained(base, str(memorised.output)).eval()
    for prompt in memorised.golden["prompts"]:
        ids = torch.tensor([prompt["prompt_token_ids"]])
        limits = {"max_new_tokens": 16, "do_sample": False}
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **limits)  # type: ignore[no-untyped-call]
        assert output[0, ids.shape[1] :].tolist() == prompt["continuation_token_ids"]


def test_the_artifact_is_whole(memorised: Trained) -> None:
    names = {path.name for path in memorised.output.iterdir()}
    assert names == {
        "adapter_model.safetensors", "adapter_config.json", "golden.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "logs",
    }  # fmt: skip
    config = json.loads((memorised.output / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == "tiny_model"
    assert config["target_modules"] == sorted(config["target_modules"])
    template = (TINY_MODEL / "chat_template.jinja").read_text(encoding="utf-8")
    assert (memorised.output / "chat_template.jinja").read_text(encoding="utf-8") == template


def test_no_path_of_this_machine_is_in_the_artifact(memorised: Trained) -> None:
    for path in memorised.output.iterdir():
        if path.is_file():
            assert str(memorised.output.parent).encode() not in path.read_bytes()
            assert str(TINY_MODEL.parent).encode() not in path.read_bytes()


def test_the_manifest_says_what_made_it(memorised: Trained) -> None:
    manifest = memorised.manifest
    assert (manifest.kind, manifest.base_model, manifest.seed) == (Kind.ADAPTER, "tiny_model", 0)
    assert manifest.quantization is not None
    assert manifest.quantization["bnb_4bit_quant_type"] == "nf4"
    assert len(manifest.chat_template_sha256 or "") == len(manifest.tokenizer_sha256 or "") == 64
    metrics = manifest.metrics
    assert (metrics["steps"], metrics["train_rows"], metrics["epochs_seen"]) == (50, 8, 50)
    assert metrics["trainable_parameters"] == 34816
    assert metrics["tokens_per_second"] > 0


def test_figures_come_with_every_step_and_are_in_the_logs(memorised: Trained) -> None:
    steps = [entry for entry in memorised.report.steps if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 51))
    wanted = {"loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes", "eta_seconds"}
    assert all(wanted <= entry.keys() for entry in steps)
    lines = (memorised.output / "logs" / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["loss"] for line in lines if '"loss"' in line] == [entry["loss"] for entry in steps]
    events = EventAccumulator(str(memorised.output / "logs" / "tensorboard")).Reload()
    assert [scalar.step for scalar in events.Scalars("loss")] == list(range(1, 51))
    assert [scalar.step for scalar in events.Scalars("eval_loss")] == [0, 25, 50]


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(memorised: Trained) -> None:
    rates = [entry["learning_rate"] for entry in memorised.report.steps if "loss" in entry]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1e-2)
    assert rates[25] == pytest.approx(5e-3, rel=0.1)
    assert rates[-1] < 1e-4


def test_the_frozen_base_does_not_move_and_the_adapters_do(tmp_path: Path) -> None:
    trainer, _ = set_up(tmp_path, write_dataset(tmp_path / "d", letters(8), letters(4)), eval_steps=1)

    def frozen() -> dict[str, torch.Tensor]:
        parameters = trainer.model.named_parameters()
        return {name: value.detach().clone() for name, value in parameters if not value.requires_grad}

    before, adapter_before = frozen(), adapters.copy_weights(trainer.model)
    attempts.train(trainer, None, trainer.report)
    assert all(torch.equal(before[name], value) for name, value in frozen().items())
    after = adapters.copy_weights(trainer.model)
    assert all(not torch.equal(adapter_before[name], after[name]) for name in after if "lora_B" in name)


def test_an_evaluation_changes_neither_gradients_nor_the_base(tmp_path: Path) -> None:
    """On CPUs with AVX512_BF16, bitsandbytes would repack the base at the first evaluation and lose its gradient."""
    dataset = write_dataset(tmp_path / "d", letters(8), letters(4))
    trainer, _ = set_up(tmp_path, dataset, lora_dropout=0.0, bnb_4bit_compute_dtype="float32")
    batch = next(iter(trainer.get_train_dataloader()))

    def gradients() -> dict[str, torch.Tensor]:
        trainer.model.zero_grad()
        trainer.model.train()
        trainer.compute_loss(trainer.model, dict(batch)).backward()
        parameters = adapters.trainable(trainer.model).items()
        return {name: value.grad.clone() for name, value in parameters if value.grad is not None}

    before = gradients()
    trainer.evaluate()
    after = gradients()
    assert any(bool(value.abs().max() > 0) for value in before.values())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_evaluation_loss_is_nats_per_answer_token_whatever_the_batches(tmp_path: Path) -> None:
    held = [exchange("a", "b"), exchange("say", "a much longer answer than the other one"), exchange("q", "ab cd")]
    dataset = write_dataset(tmp_path / "d", letters(4), held)
    losses = []
    for size in (1, 2, 3):
        trainer, _ = set_up(tmp_path, dataset, per_device_eval_batch_size=size, bnb_4bit_compute_dtype="float32")
        losses.append(trainer.evaluate()["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_packed_rows_do_not_see_each_other(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", letters(6), letters(6))
    plain, _ = set_up(tmp_path, dataset, bnb_4bit_compute_dtype="float32")
    packed, examples = set_up(tmp_path, dataset, bnb_4bit_compute_dtype="float32", packing=True, max_length=96)
    assert len(packed.train_dataset) < len(examples.examples)
    expected = plain.evaluate()["eval_loss"]
    assert packed.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert packed.evaluate(packed.train_dataset)["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_packed_run_trains(tmp_path: Path) -> None:
    result = train(tmp_path, write_dataset(tmp_path / "d", letters(8), letters(8)), packing=True, max_steps=10)
    assert result.manifest.metrics["best_eval_loss"] < result.manifest.metrics["first_eval_loss"] - 1


def test_training_stops_when_evaluations_stop_improving(tmp_path: Path) -> None:
    # Wrong answers are held out: the better the rows are known, the worse the loss.
    dataset = write_dataset(tmp_path / "d", letters(8), letters(8, shift=1))
    result = train(tmp_path, dataset, max_steps=40, eval_steps=2, early_stopping_patience=2)
    metrics, losses = result.manifest.metrics, evaluations(result)
    assert metrics["stopped_early"]
    assert metrics["steps"] == metrics["best_step"] + 4 < 40
    assert metrics["best_eval_loss"] == losses[metrics["best_step"]] == min(losses[s] for s in losses if s)
    assert result.report.of_type("early_stop")[0]["best_step"] == metrics["best_step"]
    (told,) = result.report.of_type("overfitting")
    assert told["best_step"] == metrics["overfits_since"] == metrics["best_step"]
    assert told["eval_loss"] > metrics["best_eval_loss"]


def test_the_best_adapter_is_what_is_saved_not_the_last(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", letters(8), letters(8, shift=1))
    shared: dict[str, Any] = {"eval_steps": 2, "save_steps": 2, "learning_rate": 2e-2, "lr_scheduler_type": "constant"}
    whole = train(tmp_path / "whole", dataset, max_steps=12, early_stopping_patience=0, **shared)
    best = whole.manifest.metrics["best_step"]
    assert best < 12
    until_best = train(tmp_path / "best", dataset, max_steps=best, early_stopping_patience=0, **shared)
    for name in ("adapter_model.safetensors", "golden.json"):
        assert (whole.output / name).read_bytes() == (until_best.output / name).read_bytes()


def test_a_run_that_does_not_help_says_so(tmp_path: Path) -> None:
    held = [exchange("x", "\x7f\x7f\x7f\x7f")]
    result = train(tmp_path, write_dataset(tmp_path / "d", letters(8), held), max_steps=4, learning_rate=1e-7)
    metrics = result.manifest.metrics
    helped = metrics["best_eval_loss"] < metrics["first_eval_loss"]
    assert bool(result.report.of_type("no_improvement")) is not helped


def test_a_fallback_of_the_optimizer_is_told(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU pages")
    result = train(tmp_path, write_dataset(tmp_path / "d", letters(4)), optim="paged_adamw_8bit", max_steps=1)
    assert result.report.of_type("optimizer")


def test_one_row_without_held_out_rows_is_trained_on(tmp_path: Path) -> None:
    result = train(tmp_path, write_dataset(tmp_path / "d", [exchange("hi", "ho")]))
    assert result.report.of_type("no_evaluation")
    assert result.manifest.metrics["first_eval_loss"] is None
    assert [prompt["source"] for prompt in result.golden["prompts"]] == ["train"]


def test_the_shortest_possible_rows_are_trained_on(tmp_path: Path) -> None:
    bare = "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}"
    bare += "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    base = Path(shutil.copytree(TINY_MODEL, tmp_path / "base"))
    (base / "chat_template.jinja").write_text(bare, encoding="utf-8")
    dataset = write_dataset(tmp_path / "d", [exchange("q", "a")], [exchange("q", "a")])
    result = train(tmp_path, dataset, base)
    assert result.report.of_type("encoded")[0]["longest_row_tokens"] == 3


def test_rows_that_do_not_fit_are_counted_in_the_manifest(tmp_path: Path) -> None:
    rows = [*letters(4), exchange("long " * 30, "lost")]
    result = train(tmp_path, write_dataset(tmp_path / "d", rows, letters(2)), max_length=64)
    assert result.manifest.metrics["rows_left_out"] == 1
    assert result.manifest.metrics["train_rows"] == 4
    assert result.report.of_type("prompt_too_long")[0]["places"] == ["train.jsonl:5"]


def test_a_dataset_of_which_nothing_fits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no training row is left"):
        train(tmp_path, write_dataset(tmp_path / "d", letters(2)), max_length=8)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", r"train\.jsonl holds no rows"),
        ("{\n", r"train\.jsonl:1: not JSON"),
        ('{"messages": []}\n', r"train\.jsonl:1: `messages` must be"),
        ('{"raw": "text"}\n', r"train\.jsonl:1: `messages` must be"),
        ("[]\n", r"train\.jsonl:1: an object is expected"),
        ('{"messages": [{"role": "user", "content": "x"}]}\n', r"train\.jsonl:1: no message of the assistant"),
    ],
)
def test_a_malformed_dataset_is_an_error_naming_the_line(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidData, match=why):
        load_dataset(tmp_path)


def test_uncleaned_data_cannot_reach_the_trainer(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text('{"instruction": "x", "output": "y"}\n', encoding="utf-8")
    with pytest.raises(InvalidData, match=r"no train\.jsonl: only what data preparation made"):
        load_dataset(tmp_path)


def poisoned_base(folder: Path, token: int) -> Path:
    """Return a base whose embedding of one byte is not a number."""
    base = Path(shutil.copytree(TINY_MODEL, folder / "base"))
    weights = load_file(base / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return base


def test_a_loss_that_is_not_a_number_names_the_step_and_the_row(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TINY_MODEL, Recorder(tmp_path / "c"))
    # The head is tied to the embeddings, so a poisoned token would poison every logit: the base must be untied.
    base = poisoned_base(tmp_path, tokenizer.encode("Z")[0])
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].nan_to_num().clone()
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_bytes())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}), encoding="utf-8")
    rows = [*letters(3), exchange("say Z", "zzz")]
    with pytest.raises(Refused, match=r"the loss is nan in step 1, in the rows .*train\.jsonl:4"):
        train(tmp_path, write_dataset(tmp_path / "d", rows, letters(2)), base, gradient_accumulation_steps=1)


def test_a_base_that_computes_no_numbers_is_found_before_training(tmp_path: Path) -> None:
    base = poisoned_base(tmp_path, 0)
    with pytest.raises(Refused, match="before any training: the base itself computes no numbers"):
        train(tmp_path, write_dataset(tmp_path / "d", letters(2), letters(2)), base)
