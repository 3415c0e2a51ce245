"""Recipes with stages: keys, what a stage takes from the recipe, and which stage trains which adapter further."""

from typing import Any

import pytest

from tests.gateway.processes import Gateway
from tunewright.chassis.errors import InvalidSpec
from tunewright.gateway.pipeline import stage_names
from tunewright.gateway.recipe import parse
from tunewright.gateway.training_stages import goes_on
from tunewright.v1 import dataprep_pb2, training_pb2

FILES = [f"file-{letter * 64}" for letter in "abc"]
END = ["deploy_base", "deploy_tuned", "evaluate", "promote"]


def staged(*stages: dict[str, Any], files: list[str] = FILES, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    named = [
        {"name": f"s{number}", "data": [{"file": file}], **stage}
        for number, (stage, file) in enumerate(zip(stages, files, strict=False))
    ]
    return {"name": "bot", "base_model": "tiny", "stages": named, **values}


def test_a_stage_says_anew_where_it_differs_from_the_recipe() -> None:
    common = {"learning_rate": 1e-4, "target_modules": ["q_proj"], "max_length": 64}
    own = {"learning_rate": 5e-5, "target_modules": ["v_proj"]}
    recipe = parse(staged({"training": own}, {"dataprep": {"seed": 3}}, training=common))
    first, second = (recipe.at(name).section("training", training_pb2.TrainingSpec) for name in ("s0", "s1"))
    assert (first.learning_rate, list(first.target_modules), first.max_length) == (5e-5, ["v_proj"], 64)
    assert (second.learning_rate, list(second.target_modules)) == (1e-4, ["q_proj"])
    assert recipe.at("s1").section("dataprep", dataprep_pb2.DataprepSpec).seed == 3
    assert not recipe.at("s0").section("dataprep", dataprep_pb2.DataprepSpec).HasField("seed")
    assert [ref.id[0] for ref in recipe.uploads] == ["a", "b"]
    assert parse(recipe.to_document()) == recipe


def test_stages_without_data_share_the_recipe_s() -> None:
    document = staged({}, {}, data=[{"file": FILES[2], "name": "all"}])
    for stage in document["stages"]:
        del stage["data"]
    recipe = parse(document)
    assert [stage.uploads[0].id[0] for stage in recipe.stages] == ["c", "c"]
    assert {stage.dataprep.sources[0].name for stage in recipe.stages} == {"all"}  # type: ignore[attr-defined] # a DataprepSpec
    assert parse(recipe.to_document()) == recipe


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"objective": "cpt"}, {"learning_rate": 1e-5}, True),
        ({"lora_r": 8}, {"lora_r": 8, "objective": "dpo"}, True),
        ({"target_modules": ["q_proj", "v_proj"]}, {"target_modules": ["v_proj", "q_proj"]}, True),
        ({"lora_r": 8}, {}, False),
        ({}, {"use_dora": True}, False),
        ({"method": "qlora"}, {"method": "lora"}, False),
        ({"method": "full"}, {"method": "full"}, False),
        ({}, {"search": {"trials": 2, "lora_r": [8, 16]}}, False),
        ({}, {"search": {"trials": 2, "learning_rate": [1e-5, 1e-4]}}, True),
    ],
)
def test_an_adapter_of_the_same_shape_is_trained_further(
    first: dict[str, Any],
    second: dict[str, Any],
    same: bool,  # noqa: FBT001 - a case
) -> None:
    recipe = parse(staged({"training": first}, {"training": second}))
    assert goes_on(*recipe.stages) is same
    between = ["train:s0"] if same else ["train:s0", "merge:s0"]
    assert stage_names(recipe) == ["import", "prepare:s0", "prepare:s1", *between, "train:s1", "merge", *END]


def test_a_recipe_without_stages_has_the_stages_it_always_had() -> None:
    plain = parse({"name": "bot", "base_model": "tiny", "data": [{"file": FILES[0]}]})
    assert stage_names(plain) == ["import", "prepare", "train", "merge", *END]


@pytest.mark.parametrize(
    ("values", "field", "why"),
    [
        ({"stages": []}, "stages", "a list of stages"),
        ({"stages": ["sft"]}, "stages[0]", "a mapping with name, data, dataprep, training"),
        (staged({"name": "Supervised!"}), "stages[0].name", "lower-case letters"),
        (staged({"name": "one"}, {"name": "one"}), "stages[1].name", "another stage is called 'one'"),
        (staged({"trainning": {}}), "stages[0].trainning", "did you mean 'training'"),
        (staged({"training": {"lora_rr": 3}}), "stages[0].training.lora_rr", "did you mean 'lora_r'"),
        (staged({"data": [{"file": "rows"}]}), "stages[0].data[0].file", "file-<64 hexadecimal digits>"),
        ({"stages": [{"name": "one"}]}, "data", "a list with at least one"),
        (staged({}, data=[{"file": FILES[1]}]), "data", "would be left out"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_stage_is_told_by_its_key(values: dict[str, Any], field: str, why: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse({"name": "bot", "base_model": "tiny", **values})
    (violation,) = caught.value.violations
    assert violation.field == field
    assert why in violation.description


def test_a_run_goes_through_all_stages_and_a_room_s_refusal_names_the_stage(gateway: Gateway) -> None:
    files = [gateway.upload('{"a": 1}\n'), gateway.upload('{"a": 2}\n')]
    wrong = staged({}, {"training": {"max_steps": 1, "learning_rate": 7}}, files=files)
    with gateway.client() as client:
        answer = client.post("/v1/runs", json={"recipe": wrong | {"name": "staged-bot"}})
    assert [found["field"] for found in answer.json()["error"]["tunewright"]["violations"]] == [
        "stages[1].training.learning_rate"
    ]
    shared = staged({}, {}, {}, files=[*files, files[0]])
    for stage in shared["stages"][:2]:
        del stage["data"]
    for bad in ({"weight": -1}, {"format": "xml"}):
        entries = [{"file": files[0]}, {"file": files[1]} | bad]
        with gateway.client() as client:
            answer = client.post("/v1/runs", json={"recipe": shared | {"name": "shared-bot", "data": entries}})
        violations = answer.json()["error"]["tunewright"]["violations"]
        assert [found["field"] for found in violations] == [f"data[1].{next(iter(bad))}"], "no stage has it as its own"
    wanted = staged({"training": {"lora_r": 4}}, {}, {}, files=[*files, files[0]], training={"max_steps": 1})
    run = gateway.wait(gateway.submit(wanted | {"name": "staged-bot"}), "succeeded")
    made = run["artifacts"]
    parents = {
        name: gateway.get(f"/v1/artifacts/{made[name]}")["parents"] for name in ("train:s1", "train:s2", "merge")
    }
    assert parents["train:s1"] == {"dataset": made["prepare:s1"], "base": made["merge:s0"]}
    assert parents["train:s2"] == {
        "dataset": made["prepare:s2"], "base": made["merge:s0"], "adapter": made["train:s1"],
    }  # fmt: skip
    assert parents["merge"]["adapter"] == made["train:s2"]
