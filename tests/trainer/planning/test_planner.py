"""Proposals keep the step's rows and are the largest that fit; refusals name what would fit, and it does."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import letters, set_up, write_dataset
from tunewright.chassis.errors import InvalidData, InvalidSpec
from tunewright.trainer.fast.passes import Away
from tunewright.trainer.planning.counting import nf4_bytes
from tunewright.trainer.planning.lengths import Lengths, mean_longest
from tunewright.trainer.planning.machine import Machine
from tunewright.trainer.planning.planner import _with, best, judged, plan
from tunewright.trainer.planning.shapes import shape_of
from tunewright.trainer.planning.timing import duration, operations_a_token
from tunewright.trainer.spec import TrainingSpec

QWEN_7B = shape_of(
    {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
     "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
)  # fmt: skip
LONG = Lengths(((512, 900), (4096, 100)), ((512, 20),), "a test's", known=True)


def gpu(gigabytes: float, name: str = "NVIDIA H100 80GB HBM3") -> Machine:
    return Machine("cuda", name, round(gigabytes * 1e9), 2)


def settings(**values: Any) -> TrainingSpec:  # noqa: ANN401 - any field's value
    return TrainingSpec.from_mapping({"max_length": 4096, "fast_path": "off", **values})


@pytest.mark.parametrize("method", ["qlora", "lora", "full", "prompt_tuning"])
@pytest.mark.parametrize("batch", [(2, 8), (3, 5), (1, 7), (64, 1)])
def test_the_largest_micro_batch_that_fits_is_proposed_and_the_step_stays_as_it_was(
    method: str, batch: tuple[int, int]
) -> None:
    spec = settings(method=method, per_device_train_batch_size=batch[0], gradient_accumulation_steps=batch[1])
    machine = gpu(24 if method == "qlora" else 40)
    found = best(QWEN_7B, spec, LONG, machine)
    rows = found.spec.per_device_train_batch_size
    assert found.spec.batch_rows == spec.batch_rows
    if method == "full":
        assert not found.fits
        assert rows == 1
        return
    assert found.found.memory.total <= machine.memory
    larger = [each for each in range(rows + 1, spec.batch_rows + 1) if spec.batch_rows % each == 0]
    for each in larger:
        wanted = {"per_device_train_batch_size": each, "gradient_accumulation_steps": spec.batch_rows // each}
        assert not judged(QWEN_7B, spec.model_copy(update=wanted), LONG, machine).fits


@pytest.mark.parametrize(
    ("gigabytes", "values", "named"),
    [
        (40, {"method": "full"}, {"method"}),
        (12, {"gradient_checkpointing": False}, {"gradient_checkpointing"}),
        (7.9, {}, {"max_length"}),
        (9, {"method": "lora", "optim": "adamw_torch"}, {"method"}),
        (8.0, {"method": "full", "gradient_checkpointing": False}, {"method", "gradient_checkpointing", "max_length"}),
    ],
)
def test_a_refusal_names_what_fits_and_what_it_names_fits(
    gigabytes: float, values: dict[str, Any], named: set[str]
) -> None:
    spec = settings(**values)
    planned = plan(QWEN_7B, spec, LONG, gpu(gigabytes))
    assert not planned.proposed.fits
    assert planned.remedies
    assert named <= {name for remedy in planned.remedies for name in remedy.settings}
    for remedy in planned.remedies:
        again = plan(QWEN_7B, _with(spec, remedy.settings), LONG, gpu(gigabytes))
        assert again.proposed.fits
        assert again.remedies == ()


def test_a_search_is_planned_with_its_highest_rank_and_its_trials() -> None:
    plain, searched = settings(), settings(search={"trials": 5, "lora_r": [8, 256], "learning_rate": [1e-5, 1e-3]})
    one, many = (judged(QWEN_7B, spec, LONG, gpu(80)) for spec in (plain, searched))
    assert many.found.memory == judged(QWEN_7B, settings(lora_r=256), LONG, gpu(80)).found.memory
    assert many.time.seconds == pytest.approx(one.time.seconds * 2)  # four trials of a quarter, and the run


def test_where_nothing_fits_nothing_is_named() -> None:
    planned = plan(QWEN_7B, settings(), LONG, gpu(4))
    assert not planned.proposed.fits
    assert planned.remedies == ()


def test_methods_that_the_recipe_rules_out_are_told_and_the_others_planned() -> None:
    planned = plan(QWEN_7B, settings(objective="dpo", use_dora=True, lora_r=8), LONG, gpu(80))
    assert [option.spec.method for option in planned.methods] == ["qlora", "lora", "full"]
    assert "a prompt alone changes too little" in planned.refused["prompt_tuning"]


def test_more_of_anything_never_takes_less_memory() -> None:
    def total(**values: Any) -> int:  # noqa: ANN401 - any field's value
        return judged(QWEN_7B, settings(**values), LONG, gpu(80)).found.memory.total

    base = total()
    assert total(per_device_train_batch_size=4) > base
    assert total(lora_r=64) > base
    assert total(gradient_checkpointing=False) > base
    assert total(use_dora=True) > base
    assert total(optim="adamw_torch") > base
    assert total(bnb_4bit_use_double_quant=False) > base
    assert total(max_length=2048) < base
    assert total(objective="dpo") > base


def test_the_fast_path_stays_within_what_it_is_given() -> None:
    for gigabytes in (6, 8, 12, 16, 24, 40, 80):
        found = judged(QWEN_7B, settings(fast_path="on"), LONG, gpu(gigabytes))
        assert found.found.passes is not None
        assert found.fits
    held = judged(QWEN_7B, settings(fast_path="on", vram_budget_gb=16), LONG, gpu(80))
    assert held.found.memory.total < 16.9e9  # and what no allocator sees


@pytest.mark.parametrize(
    ("values", "window"),
    [({"use_dora": True}, None), ({"objective": "dpo"}, None), ({"method": "lora"}, None), ({}, 4096),
     ({"bnb_4bit_compute_dtype": "float16"}, None)],
)  # fmt: skip
def test_what_the_fast_path_does_not_know_is_planned_on_the_plain_one(
    values: dict[str, Any], window: int | None
) -> None:
    shape = shape_of(
        {"model_type": "mistral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
         "num_attention_heads": 4, "vocab_size": 300, "sliding_window": window}
    )  # fmt: skip
    alone = judged(shape, settings(fast_path="on"), LONG, gpu(24)).found.passes
    assert (alone is None) is (window is not None)
    assert judged(shape, settings(fast_path="on", **values), LONG, gpu(24)).found.passes is None


def test_batches_are_as_long_as_the_longest_of_their_rows() -> None:
    # Two rows drawn of lengths 1 and 3, each every other time: 3 in three of four cases.
    assert mean_longest(((1, 50), (3, 50)), 2) == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert mean_longest(((7, 3),), 5) == 7


def test_rows_are_cut_split_and_lengthened_as_training_does() -> None:
    rows = Lengths(((10, 2), (25, 1)), (), "a test's", known=True)
    assert rows.cut(settings(max_length=16)).train == ((10, 2), (16, 1))
    assert rows.cut(settings(max_length=10, objective="cpt")).train == ((5, 1), (10, 4))
    prompt = settings(max_length=16, method="prompt_tuning", num_virtual_tokens=3)
    assert rows.cut(prompt).train == ((13, 2), (19, 1))


def test_steps_are_those_of_the_trainer(tmp_path: Path) -> None:
    trainer, _ = set_up(
        tmp_path, write_dataset(tmp_path / "d", letters(7)), max_steps=0, num_train_epochs=2.5,
        per_device_train_batch_size=2, gradient_accumulation_steps=2,
    )  # fmt: skip
    spec = settings(num_train_epochs=2.5, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    found = duration(QWEN_7B, spec, Lengths(((20, 7),), (), "", known=True), gpu(80), None)
    assert found.steps == trainer.args.max_steps == 5


def test_time_is_the_measured_one_for_what_was_measured() -> None:
    # bench/results/qlora_gpu_h100.json: 6,430 tokens a second; attention, which the rate leaves out, takes 2 % more.
    rows = Lengths(((2048, 1600),), (), "", known=True)
    found = duration(QWEN_7B, settings(num_train_epochs=1), rows, gpu(80), None)
    assert 2048 * 1600 / found.seconds == pytest.approx(6430, rel=0.03)
    assert "measured on an H100" in found.basis
    slower = duration(QWEN_7B, settings(num_train_epochs=1), rows, gpu(24, "NVIDIA L4"), None)
    assert slower.seconds == pytest.approx(found.seconds * 989 / 121)
    assert "by data sheets" in slower.basis


@pytest.mark.parametrize(
    ("machine", "measured"), [(gpu(80), {"qlora"}), (Machine("cpu", "", 10**11, 2, 5e10), {"qlora", "lora"})]
)
def test_a_method_whose_speed_was_not_measured_is_told(machine: Machine, measured: set[str]) -> None:
    planned = plan(QWEN_7B, settings(), LONG, machine)
    told = {option.spec.method for option in planned.methods if "itself is not measured" in option.time.basis}
    assert told == {option.spec.method for option in planned.methods} - measured


def test_full_training_takes_a_third_more_operations_than_adapters() -> None:
    adapters, full = (
        operations_a_token(QWEN_7B, settings(method=method), 1, fast=False) for method in ("lora", "full")
    )
    assert full / adapters == pytest.approx(4 / 3)


def test_an_audit_is_read_and_what_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    path.write_text(json.dumps({"lengths": {"train": [[9, 2], [5, 1]], "validation": []}}))
    assert Lengths.of_audit(path).train == ((5, 1), (9, 2))
    for text in ("{", "[]", '{"lengths": {"validation": []}}', '{"lengths": {"train": []}}'):
        path.write_text(text)
        with pytest.raises(InvalidData, match=r"audit\.json"):
            Lengths.of_audit(path)


def test_each_of_several_processes_is_planned_with_its_share_of_the_batch() -> None:
    spec = settings(method="lora", per_device_train_batch_size=8, gradient_accumulation_steps=1)
    alone, two = (judged(QWEN_7B, spec.model_copy(update={"processes": n}), LONG, gpu(80)) for n in (1, 2))
    four_rows = spec.model_copy(update={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2})
    assert two.found.memory == judged(QWEN_7B, four_rows, LONG, gpu(80)).found.memory
    assert two.found.memory.total < alone.found.memory.total
    assert two.found.processes == 2
    assert "× 2 processes" in two.time.basis
    found = best(QWEN_7B, spec.model_copy(update={"processes": 2}), LONG, gpu(1000))
    assert found.spec.per_device_train_batch_size == 4, "no process has more rows than its share of the batch"
    assert best(QWEN_7B, spec, LONG, replace(gpu(1000), count=3)).found.processes == 2, "three do not divide 8"
    with pytest.raises(InvalidSpec, match="processes: 3 processes cannot share an effective batch of 8 rows"):
        judged(QWEN_7B, spec.model_copy(update={"processes": 3}), LONG, gpu(80))


def test_on_a_cpu_all_processes_have_one_machines_memory() -> None:
    spec = settings(method="lora", per_device_train_batch_size=2, processes=2)
    need = judged(QWEN_7B, spec, LONG, Machine("cpu", "", 1, 2)).found.memory.total
    assert not judged(QWEN_7B, spec, LONG, Machine("cpu", "", 2 * need - 1, 2)).fits
    assert judged(QWEN_7B, spec, LONG, Machine("cpu", "", 2 * need, 2)).fits


@pytest.mark.parametrize(("method", "packed"), [("qlora", 0.5), ("lora", 2)])
def test_a_base_in_shards_takes_less_of_each_gpu_but_not_less_than_loading_it(method: str, packed: float) -> None:
    spec = settings(method=method, processes=4, fsdp="full_shard", fast_path="auto")
    whole = judged(QWEN_7B, spec.model_copy(update={"fsdp": "off", "fast_path": "off"}), LONG, gpu(80))
    sharded = judged(QWEN_7B, spec, LONG, gpu(80))
    assert sharded.found.passes is None, "shards take the plain path"
    given_up = packed * QWEN_7B.linear_weights * (1 - 1 / 4 - 2 / QWEN_7B.layers)
    parts = sharded.found.memory
    loading = whole.found.memory.weights + parts.trained + parts.fixed
    assert parts.total == pytest.approx(max(whole.found.memory.total - given_up, loading), rel=1e-6)
    assert parts.total < whole.found.memory.total


def test_what_lies_in_ram_beside_a_gpu_is_planned_and_too_little_ram_is_told() -> None:
    spec = TrainingSpec.from_mapping({"max_length": 2048, "vram_budget_gb": 5.2})
    rows = Lengths(((2048, 80),), (), "a test's", known=True)
    found = judged(QWEN_7B, spec, rows, gpu(80))
    assert found.found.passes is not None
    assert found.found.passes.away is Away.LAYERS
    layer = nf4_bytes(QWEN_7B.linear_weights, double=True) // QWEN_7B.layers
    assert layer < 2**27, "a buffer of PyTorch's is 2^27 bytes for it"
    assert found.found.host >= 28 * 2**27 + 2 * QWEN_7B.embedding
    for ram, fits in ((found.found.host, True), (found.found.host - 1, False), (0, True)):
        there = replace(gpu(80), host=ram)
        again = judged(QWEN_7B, spec, rows, there)
        assert (again.fits, again.found.lacks_host(there)) == (fits, not fits)
    assert judged(QWEN_7B, spec.model_copy(update={"vram_budget_gb": 0.0}), rows, gpu(80)).found.host == 0
