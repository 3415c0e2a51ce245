"""Recipes are checked key by key against the protos."""

import json
from typing import Any

import pytest

from tunewright.chassis.errors import InvalidSpec
from tunewright.gateway.recipe import SECTIONS, parse
from tunewright.v1 import dataprep_pb2, training_pb2

FILE = f"file-{'a' * 64}"


def _recipe(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any YAML
    return {"name": "bot", "base_model": "tiny", "data": [{"file": FILE}], **changes}


def _violations(document: object) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as wrong:
        parse(document)
    return {v.field: v.description for v in wrong.value.violations}


def test_every_field_of_every_room_is_a_key_of_its_section() -> None:
    for name, cls in SECTIONS.items():
        for field in cls.DESCRIPTOR.fields:
            if field.name != "sources":  # its keys stand under `data`
                assert "unknown name" not in str(_probe(name, field.name))


def test_keys_of_sections_in_sections_are_checked_with_their_whole_path() -> None:
    wrong = {
        "cleaning": {"htlm": True, "html": 1},
        "split": 0.1,
        "validation_fraction": 0.2,
        "mixing": {"learning_rate": 1},
    }
    assert _violations(_recipe(dataprep=wrong)) == {
        "dataprep.cleaning.htlm": "unknown name; did you mean 'html'?",
        "dataprep.cleaning.html": "true or false is expected, found 1 (a whole number)",
        "dataprep.split": "a mapping of keys to values is expected, found 0.1 (a number)",
        "dataprep.validation_fraction": "unknown name; it belongs to 'dataprep.split'",
        "dataprep.mixing.learning_rate": "unknown name; it belongs to 'training'",
    }


def test_what_is_said_of_a_file_reaches_data_preparation_in_the_order_of_the_files() -> None:
    other = f"file-{'b' * 64}"
    recipe = parse(_recipe(data=[{"file": FILE}, {"file": other, "name": "general"}]))
    assert [ref.id[0] for ref in recipe.uploads] == ["a", "b"]
    assert [source.name for source in recipe.section("dataprep", dataprep_pb2.DataprepSpec).sources] == ["", "general"]
    document = json.loads(json.dumps(recipe.to_document()))
    assert document["data"] == [{"file": FILE}, {"file": other, "name": "general"}]
    assert parse(document) == recipe
    assert not parse(_recipe()).section("dataprep", dataprep_pb2.DataprepSpec).sources


def test_how_a_file_is_read_and_used_stands_beside_it() -> None:
    said = {"use": "test", "format": "text", "fields": {"text": "data.body"}}
    recipe = parse(_recipe(data=[{"file": FILE} | said], dataprep={"reading": {"encoding": "GB18030"}}))
    spec = recipe.section("dataprep", dataprep_pb2.DataprepSpec)
    assert (spec.sources[0].use, spec.sources[0].format) == ("test", "text")
    assert dict(spec.sources[0].fields) == {"text": "data.body"}
    document = json.loads(json.dumps(recipe.to_document()))
    assert document["data"] == [{"file": FILE} | said]
    assert parse(document) == recipe
    found = _violations(_recipe(data=[{"file": FILE, "fields": {"text": 7}}]))
    assert found == {"data[0].fields.text": "text is expected, found 7 (a whole number)"}


def test_what_is_wrong_beside_a_file_is_named_there() -> None:
    found = _violations(_recipe(data=[{"file": FILE, "name": 3, "wieght": 1}], dataprep={"sources": []}))
    assert found["data[0].name"] == "text is expected, found 3 (a whole number)"
    assert found["data[0].wieght"].startswith("unknown name")
    assert "under 'data'" in found["dataprep.sources"]
    assert len(found) == 3


def _probe(section: str, field: str) -> dict[str, str]:
    try:
        parse(_recipe(**{section: {field: object()}}))
    except InvalidSpec as error:
        return {v.field: v.description for v in error.violations}
    return {}


def test_all_mistakes_are_named_at_once_with_their_paths() -> None:
    found = _violations(
        {
            "nmae": "bot",
            "base_model": "",
            "data": [{"path": "raw.jsonl"}, {"file": "file-1"}, {}, 7],
            "training": {"lora_rank": 8, "lora_r": 1.5, "packing": "yes", "seed": -1, "target_modules": "all"},
            "dataprep": [],
        }
    )
    assert found["nmae"] == "unknown name; did you mean 'name'?"
    assert set(found) == {
        "nmae", "name", "base_model", "data[0].path", "data[1].file", "data[2].file", "data[3]", "training.lora_rank",
        "training.lora_r", "training.packing", "training.seed", "training.target_modules", "dataprep",
    }  # fmt: skip
    assert "POST /v1/files" in found["data[0].path"]
    assert found["training.lora_r"] == "a whole number is expected, found 1.5 (a number)"
    assert found["training.seed"] == "a whole number from 0 to 4294967295 is expected, found -1 (a whole number)"


def test_a_key_in_the_wrong_section_is_told_where_it_belongs() -> None:
    assert _violations(_recipe(merging={"learning_rate": 1}))["merging.learning_rate"] == (
        "unknown name; it belongs to 'training'"
    )


@pytest.mark.parametrize(("written", "read"), [("2e-4", 2e-4), ("2.0e-4", 2e-4), (1, 1.0)])
def test_numbers_are_read_as_people_write_them(written: object, read: float) -> None:
    recipe = parse(_recipe(training={"learning_rate": written}))
    assert recipe.section("training", training_pb2.TrainingSpec).learning_rate == read


def test_null_and_missing_sections_mean_the_rooms_defaults() -> None:
    recipe = parse(_recipe(training={"lora_r": None}, merging=None))
    assert not recipe.section("training", training_pb2.TrainingSpec).HasField("lora_r")


def test_a_recipe_written_and_parsed_again_is_the_same() -> None:
    sections = {
        "training": {"lora_r": 8, "target_modules": ["q_proj"], "learning_rate": 2e-4, "packing": False},
        "merging": {"max_shard_bytes": 2**40},
        "dataprep": {"seed": 3, "cleaning": {"html": False}, "split": {"validation_fraction": 0.2}},
        "deployment": {"kv_cache_bytes": 64 << 20, "enforce_eager": True},
    }
    recipe = parse(_recipe(**sections, base_revision="main"))
    document = json.loads(json.dumps(recipe.to_document()))
    assert parse(document) == recipe
    assert {name: document[name] for name in sections} == sections


@pytest.mark.parametrize("name", ["Bot", "", "a b", "-bot", "bot-", "b" * 49, "bot-base", 7, None, "a/b"])
def test_a_name_that_cannot_be_a_deployment_is_refused(name: object) -> None:
    assert "name" in _violations(_recipe(name=name))


@pytest.mark.parametrize("document", ["{", "just text", [], None, 7, "- a\n- b\n"])
def test_what_is_no_mapping_is_refused(document: object) -> None:
    assert "recipe" in _violations(document)


def test_a_malformed_reference_as_base_is_refused() -> None:
    assert "base_model" in _violations(_recipe(base_model="models/123"))
