"""Every method and objective learns what it is shown, and nothing moves that must not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.trainer.conftest import TINY_MODEL, Trained, exchange, letters, set_up, train, write_dataset
from tunewright.artifacts import Kind
from tunewright.chassis.errors import InvalidData, InvalidSpec
from tunewright.trainer import adapters
from tunewright.trainer.base import _keep_training_layout

TEXTS = [{"text": f"{chr(65 + n) * 6} is followed by {chr(97 + n) * 6}."} for n in range(6)]
PAIRS = [{"messages": exchange(chr(65 + n) * 4, "")[:1], "chosen": "yes" * 2, "rejected": "no" * 3} for n in range(6)]
# The tiny model's last hidden state has norm 8 whatever the adapters do, so the losses of the runs below end above 0.
CASES: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "dora, rslora, lora+, all layers": {
        "use_dora": True, "use_rslora": True, "loraplus_lr_ratio": 4, "target_modules": "all-linear",
    },
    "norms trained as a whole": {"method": "lora", "modules_to_save": ["input_layernorm", "norm"]},
    "full": {"method": "full"},
    "prompt_tuning": {"method": "prompt_tuning", "learning_rate": 0.3},
}  # fmt: skip


def reloaded(result: Trained) -> Any:  # noqa: ANN401 - a transformers model
    """The artifact on an untouched base, by plain transformers and PEFT."""
    word = result.golden["compute_dtype"]
    spec = result.manifest.spec
    if spec["method"] == "full":
        return AutoModelForCausalLM.from_pretrained(result.output).eval()  # type: ignore[no-untyped-call] # transformers' own
    quantization: dict[str, Any] = {}
    if spec["method"] == "qlora":
        quantization["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call] # transformers' own
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=word,
        )
    base = AutoModelForCausalLM.from_pretrained(
        TINY_MODEL, dtype=getattr(torch, word), device_map={"": "cpu"}, **quantization
    )
    _keep_training_layout(base)
    return PeftModel.from_pretrained(base, str(result.output)).eval()


def differences(result: Trained) -> list[float]:
    """Largest difference of the recorded first-step logits from those of the reloaded artifact, for each prompt."""
    model, word = reloaded(result), result.golden["compute_dtype"]
    found = []
    for prompt in result.golden["prompts"]:
        ids = torch.tensor([prompt["prompt_token_ids"]])
        autocast = torch.autocast("cpu", dtype=getattr(torch, word), enabled=word != "float32")
        with torch.no_grad(), autocast:
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].float()
        found.append(max(abs(float(logits[token]) - logit) for token, logit in prompt["top_logits"]))
    return found


@pytest.mark.parametrize("case", CASES)
def test_each_method_learns_and_its_artifact_on_an_untouched_base_is_the_trained_model(
    case: str, tmp_path: Path
) -> None:
    # What is reloaded has the base's own weights: had training moved one of those, its logits would differ.
    dataset = write_dataset(tmp_path / "d", letters(8), letters(8))
    dropout: dict[str, Any] = {} if CASES[case].get("method") in {"full", "prompt_tuning"} else {"lora_dropout": 0.0}
    result = train(tmp_path, dataset, max_steps=20, **dropout, **CASES[case])
    metrics = result.manifest.metrics
    assert metrics["best_eval_loss"] < metrics["first_eval_loss"] - 1
    # Logits are bf16 figures of about 6, which lie 0.03 apart.
    assert max(differences(result)) < 0.1
    assert result.manifest.kind is (Kind.MODEL if CASES[case].get("method") == "full" else Kind.ADAPTER)
    assert (result.manifest.quantization is not None) is (result.manifest.spec["method"] == "qlora")


def test_raw_text_is_learned_to_its_end(tmp_path: Path) -> None:
    spec: dict[str, Any] = {"objective": "cpt", "max_steps": 20, "learning_rate": 1e-2}
    result = train(tmp_path, write_dataset(tmp_path / "d", TEXTS, TEXTS), **spec)
    metrics = result.manifest.metrics
    assert metrics["best_eval_loss"] < metrics["first_eval_loss"] - 2


def test_a_text_longer_than_max_length_is_split_and_none_of_it_is_lost(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", [{"text": "abcdefgh" * 5}])
    trainer, examples = set_up(tmp_path, dataset, objective="cpt", max_length=16)
    pieces = [example.input_ids for example in examples.examples]
    tokenizer = trainer.processing_class
    assert tokenizer.decode([token for piece in pieces for token in piece]) == "abcdefgh" * 5 + tokenizer.eos_token
    assert [len(piece) for piece in pieces] == [16, 16, 9]
    assert trainer.report.of_type("text_split")[0]["rows"] == 1


@pytest.mark.parametrize("method", ["qlora", "full"])
def test_dpo_makes_chosen_answers_likelier_than_rejected_ones(method: str, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", PAIRS, PAIRS)
    result = train(tmp_path, dataset, method=method, objective="dpo", max_steps=8, learning_rate=5e-3)
    metrics = result.manifest.metrics
    # Before training both answers are as likely as the base has them: ln 2.
    assert metrics["first_eval_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert metrics["best_eval_loss"] < 0.3
    assert [entry for entry in result.report.steps if "eval_loss" in entry][-1]["eval_preference_accuracy"] == 1


def test_dpo_trains_on_the_answers_alone_and_both_have_their_ends(tmp_path: Path) -> None:
    trainer, _ = set_up(tmp_path, write_dataset(tmp_path / "d", PAIRS[:1]), objective="dpo")
    row, tokenizer = trainer.train_dataset[0], trainer.processing_class
    assert tokenizer.decode(row["prompt_ids"]).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(row["chosen_ids"]) == "yesyes<|im_end|>"
    assert tokenizer.decode(row["rejected_ids"]) == "nonono<|im_end|>"


def test_lora_plus_gives_the_adapters_halves_two_rates(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", letters(4))
    trainer, _ = set_up(tmp_path, dataset, loraplus_lr_ratio=16, learning_rate=1e-3, optim="adamw_torch")
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    parameters = adapters.trainable(trainer.model)
    assert {rates[id(p)] for name, p in parameters.items() if "lora_A" in name} == {1e-3}
    assert {rates[id(p)] for name, p in parameters.items() if "lora_B" in name} == {16 * 1e-3}


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["nrm"], r"no module is called 'nrm'; this base has .*did you mean 'norm'"),
        (["q_proj"], "gets adapters already"),
        (["lm_head"], "shares its weights with another module"),
    ],
    ids=["unknown", "twice", "tied"],
)
def test_a_module_that_cannot_be_trained_as_a_whole_is_refused(names: list[str], why: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=why):
        set_up(tmp_path, write_dataset(tmp_path / "d", letters(4)), modules_to_save=names)


@pytest.mark.parametrize(
    ("rows", "objective", "why"),
    [
        (TEXTS, "sft", r"train\.jsonl:1: this row is one for cpt \(text\), the objective is sft"),
        (letters(2), "cpt", r"this row is one for sft \(messages\), the objective is cpt, which reads `text`"),
        (letters(2), "dpo", "this row is one for sft"),
        (PAIRS, "sft", "this row is one for dpo"),
        ([{"text": " "}], "cpt", "`text` must be a text that is not empty"),
        ([{**PAIRS[0], "rejected": 7}], "dpo", "`rejected` must be a text"),
        ([{**PAIRS[0], "rejected": PAIRS[0]["chosen"]}], "dpo", "are the same to the model"),
    ],
)
def test_rows_of_another_objective_are_named_before_training(
    rows: list[Any], objective: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidData, match=why):
        set_up(tmp_path, write_dataset(tmp_path / "d", rows), objective=objective)
