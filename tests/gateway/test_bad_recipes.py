"""Forty training sections that are wrong: each is one error that names the key, before anything is downloaded."""

from typing import Any

import pytest

from tunewright.chassis.errors import InvalidSpec
from tunewright.gateway.recipe import parse
from tunewright.trainer.spec import TrainingSpec
from tunewright.v1 import training_pb2

BAD: list[tuple[str, dict[str, Any]]] = [
    ("learning_rate", {"learning_rate": -1e-4}),
    ("learning_rate", {"learning_rate": 0}),
    ("learning_rate", {"learning_rate": 20}),
    ("learning_rate", {"learning_rate": "fast"}),
    ("learning_rate", {"learning_rate": [1e-4]}),
    ("learnin_rate", {"learnin_rate": 1e-4}),
    ("lr", {"lr": 1e-4}),
    ("max_seq_length", {"max_seq_length": 512}),
    ("max_length", {"max_length": 1}),
    ("max_length", {"max_length": -512}),
    ("max_length", {"max_length": 10**8}),
    ("max_length", {"max_length": 512.5}),
    ("lora_r", {"lora_r": 0}),
    ("lora_r", {"lora_r": -8}),
    ("lora_r", {"lora_r": 100_000}),
    ("lora_r", {"lora_r": "sixteen"}),
    ("lora_alpha", {"lora_alpha": 0}),
    ("lora_dropout", {"lora_dropout": 1}),
    ("lora_dropout", {"lora_dropout": -0.1}),
    ("target_modules", {"target_modules": ["all-linear", "q_proj"]}),
    ("target_modules", {"target_modules": ["q_proj", " "]}),
    ("target_modules", {"target_modules": 7}),
    ("method", {"method": "qlora2"}),
    ("objective", {"objective": "ppo"}),
    ("objective", {"method": "prompt_tuning", "objective": "dpo"}),
    ("use_dora", {"method": "full", "use_dora": True}),
    ("use_dora", {"use_dora": "maybe"}),
    ("lora_r", {"method": "full", "lora_r": 8}),
    ("num_virtual_tokens", {"num_virtual_tokens": 5}),
    ("beta", {"beta": 0.3}),
    ("packing", {"objective": "dpo", "packing": True}),
    ("loraplus_lr_ratio", {"loraplus_lr_ratio": 0.5}),
    ("per_device_train_batch_size", {"per_device_train_batch_size": 0}),
    ("per_device_train_batch_size", {"per_device_train_batch_size": 10**6}),
    ("gradient_accumulation_steps", {"gradient_accumulation_steps": -1}),
    ("num_train_epochs", {"num_train_epochs": 0}),
    ("spec", {"max_steps": 10, "warmup_steps": 10}),
    ("optim", {"optim": "sgd"}),
    ("early_stopping_patience", {"early_stopping_patience": -1}),
    ("bnb_4bit_compute_dtype", {"bnb_4bit_compute_dtype": "int8"}),
]


@pytest.mark.parametrize(("key", "training"), BAD, ids=[str(training) for _, training in BAD])
def test_a_bad_training_section_is_one_error_that_names_the_key_and_what_is_expected(
    key: str, training: dict[str, Any]
) -> None:
    document = {"name": "bot", "base_model": "tiny", "data": [{"file": f"file-{'a' * 64}"}], "training": training}
    with pytest.raises(InvalidSpec) as caught:
        TrainingSpec.from_proto(parse(document).section("training", training_pb2.TrainingSpec))
    (violation,) = caught.value.violations
    assert violation.field.removeprefix("training.") == key
    assert len(violation.description) > 20


def test_there_are_forty_and_no_two_are_the_same() -> None:
    assert len(BAD) == 40
    assert len({str(training) for _, training in BAD}) == 40
