"""Every recipe in recipes/ is one that the rooms take."""

from pathlib import Path

import pytest

from tunewright.chassis.spec import Spec
from tunewright.cli.recipe import load_recipe
from tunewright.dataprep.spec import DataprepSpec
from tunewright.evaluator.spec import EvaluationSpec
from tunewright.gateway.pipeline import stage_names
from tunewright.gateway.recipe import Recipe, parse
from tunewright.inference.spec import DeploymentSpec
from tunewright.merger.spec import MergeSpec
from tunewright.trainer.spec import TrainingSpec

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path.name for path in FOLDER.glob("*.yaml"))
ABSENT = f"file-{'0' * 64}"


def parsed(name: str) -> Recipe:
    """Return a recipe as the gateway reads it, its files replaced by an upload."""
    recipe = load_recipe(FOLDER / name)
    ids = {f"{prefix}data.{number}": [ABSENT] for prefix, part in recipe.parts() for number in range(len(part["data"]))}
    return parse(recipe.with_files(ids).values)


@pytest.mark.parametrize("name", RECIPES)
def test_every_section_is_one_that_its_room_takes(name: str) -> None:
    recipe = parsed(name)
    for stage in recipe.stages:
        assert DataprepSpec.from_proto(stage.dataprep).canonical()
        assert TrainingSpec.from_proto(stage.training).canonical()
    rest: dict[str, type[Spec]] = {"merging": MergeSpec, "evaluation": EvaluationSpec, "deployment": DeploymentSpec}
    for section, spec in rest.items():
        assert spec.from_proto(recipe.sections[section]).canonical()


def test_the_stages_of_the_staged_recipe_train_one_adapter() -> None:
    names = stage_names(parsed("cpt-sft-dpo.yaml"))
    assert [name for name in names if name.startswith(("train", "merge"))] == [
        "train:cpt", "train:sft", "train:dpo", "merge",
    ]  # fmt: skip
