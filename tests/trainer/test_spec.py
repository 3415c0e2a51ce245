"""The spec: the field's defaults, and clear words for what is out of range."""

import pytest

from tunewright.chassis.errors import InvalidSpec
from tunewright.trainer.spec import TrainingSpec
from tunewright.v1 import training_pb2


def test_defaults_are_those_of_the_qlora_recipe() -> None:
    spec = TrainingSpec()
    assert (spec.lora_r, spec.lora_alpha, spec.lora_dropout) == (16, 32, 0.05)
    assert set(spec.target_modules) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert (spec.learning_rate, spec.lr_scheduler_type, spec.warmup_steps) == (2e-4, "cosine", 0.03)
    assert (spec.per_device_train_batch_size, spec.gradient_accumulation_steps, spec.batch_rows) == (2, 8, 16)
    assert spec.gradient_checkpointing
    assert spec.early_stopping_patience > 0


def test_proto_and_spec_have_the_same_fields() -> None:
    assert set(training_pb2.TrainingSpec.DESCRIPTOR.fields_by_name) == set(TrainingSpec.model_fields)


def test_an_empty_message_is_the_default_spec() -> None:
    assert TrainingSpec.from_proto(training_pb2.TrainingSpec()) == TrainingSpec()


def test_a_default_and_the_same_value_given_are_the_same_job() -> None:
    given = training_pb2.TrainingSpec(lora_alpha=32, num_train_epochs=3, warmup_steps=0.03, lora_r=16)
    assert TrainingSpec.from_proto(given).canonical() == TrainingSpec().canonical()


def test_order_of_target_modules_does_not_make_another_job() -> None:
    one = TrainingSpec.from_mapping({"target_modules": ["v_proj", "q_proj"]})
    other = TrainingSpec.from_mapping({"target_modules": ["q_proj", "v_proj", "q_proj"]})
    assert one == other


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", 2),
        ("lora_r", 0),
        ("lora_dropout", 1),
        ("lora_alpha", float("nan")),
        ("max_length", 1),
        ("per_device_train_batch_size", 0),
        ("method", "magic"),
        ("optim", "sgd"),
        ("target_modules", []),
        ("target_modules", ["all-linear", "q_proj"]),
        ("early_stopping_patience", -1),
        ("bnb_4bit_compute_dtype", "int8"),
        ("objective", "ppo"),
        ("loraplus_lr_ratio", 0.5),
        ("beta", 0.3),
        ("num_virtual_tokens", 5),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidSpec) as caught:
        TrainingSpec.from_mapping({field: value})
    assert [violation.field for violation in caught.value.violations] == [field]


def test_a_misspelt_field_gets_a_suggestion() -> None:
    with pytest.raises(InvalidSpec, match="did you mean 'learning_rate'"):
        TrainingSpec.from_mapping({"learnin_rate": 1e-4})


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="must be below max_steps"):
        TrainingSpec.from_mapping({"max_steps": 10, "warmup_steps": 10})


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("full", "use_dora", True),
        ("full", "lora_r", 8),
        ("prompt_tuning", "target_modules", "q_proj"),
        ("prompt_tuning", "objective", "dpo"),
        ("prompt_tuning", "packing", True),
    ],
)
def test_a_setting_that_the_method_would_ignore_is_refused_by_name(method: str, field: str, value: object) -> None:
    with pytest.raises(InvalidSpec) as caught:
        TrainingSpec.from_mapping({"method": method, field: value})
    assert [violation.field for violation in caught.value.violations] == [field]


def test_the_default_rate_fits_method_and_objective_and_a_given_one_stays() -> None:
    assert TrainingSpec.from_mapping({"method": "full"}).learning_rate == 2e-5
    assert TrainingSpec.from_mapping({"objective": "dpo"}).learning_rate == 1e-5
    assert TrainingSpec.from_mapping({"method": "full", "learning_rate": 2e-4}).learning_rate == 2e-4


@pytest.mark.parametrize("method", ["qlora", "lora", "full", "prompt_tuning"])
def test_a_spec_survives_its_canonical_form(method: str) -> None:
    spec = TrainingSpec.from_mapping({"method": method})
    assert TrainingSpec.from_mapping(spec.canonical()) == spec
