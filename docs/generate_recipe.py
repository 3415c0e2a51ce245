"""Writes docs/recipe.md from the specs of the rooms: `python -m docs.generate_recipe`. A test keeps the page fresh."""

import sys
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tunewright.chassis.spec import Spec, nested
from tunewright.dataprep.spec import DataprepSpec, DataSource
from tunewright.evaluator.spec import EvaluationSpec
from tunewright.inference.spec import DeploymentSpec
from tunewright.merger.spec import MergeSpec
from tunewright.trainer.spec import TrainingSpec

PAGE = Path(__file__).with_name("recipe.md")
SECTIONS: tuple[tuple[str, type[Spec]], ...] = (
    ("dataprep", DataprepSpec),
    ("training", TrainingSpec),
    ("merging", MergeSpec),
    ("evaluation", EvaluationSpec),
    ("deployment", DeploymentSpec),
)
HEAD = """\
# Recipe

<!-- Written by docs/generate_recipe.py from the specs; change those. -->

A recipe is one YAML file. `tunewright run RECIPE.yaml` uploads its data and runs all stages. A key that is not known is
an error that names the nearest known one; a value out of range is reported before anything is queued.

| key | what |
|---|---|
| `name` | the run's name, and the model's name once it is served; the base answers as `<name>-base` |
| `base_model` | a hub id (`Qwen/Qwen2.5-7B-Instruct`), a folder below the import root, or `models/<sha256>` |
| `base_name` | another name for the base, ending in `-base`; runs that share it share one engine of the base |
| `data` | list of raw files or folders, `- path: raw.jsonl`, relative to the recipe; more may be said, see below |
| `stages` | trainings one after the other, each with its own `name`, `data`, `dataprep` and `training`; see below |
| `dataprep`, `training`, `merging`, `evaluation`, `deployment` | the sections below; every field has a default |
"""
DATA = """
## data

Each entry names a file: `path` (relative to the recipe), or `file` (the id of an upload). A `path` may be a folder:
every data file below it is uploaded (at most 1,000 in a run), as one source; what is left out is told: other endings,
empty files, links out of the folder. It may be `s3://bucket/prefix/`, with the same rules;
[data.md](data.md#what-can-be-read) tells which store is asked. Beside it may stand:

"""
STAGES = """
## stages

Trainings one after the other, such as continued pre-training, then supervised training, then DPO:

```yaml
training: {lora_r: 32, max_length: 2048} # what all stages have in common
stages:
  - name: cpt
    data: [{path: manuals/}]
    dataprep: {format: text}
    training: {objective: cpt, learning_rate: 5.0e-5}
  - name: sft
    data: [{path: questions.jsonl}]
  - name: dpo
    data: [{path: pairs.jsonl}]
    training: {objective: dpo}
```

A stage's sections stand over the recipe's, key by key; a stage without `data` takes the recipe's. A stage trains the
adapter of the one before further where both name the same method, `lora_r`, `lora_alpha`, `target_modules`, `use_dora`,
`use_rslora` and `modules_to_save`, and search no rank; optimizer and schedule begin anew. Else that adapter is merged,
and the stage trains a fresh one, or all weights, on the merged model. Either way DPO compares with what the stage
before gave. The model that is served is the last stage's, evaluated on its rows. In a run the stages are called
`prepare:cpt`, `train:cpt`, `merge:cpt`.
"""
TOP = 2
"""Depth of the headings of whole sections."""
BESIDE = {"sources": DataSource}
"""Fields of specs that stand elsewhere in a recipe: the gateway moves them."""


def page() -> str:
    """Return the whole page."""
    return HEAD + DATA + _table(DataSource) + STAGES + "".join(_section(name, spec, TOP) for name, spec in SECTIONS)


def _section(name: str, spec: type[Spec], depth: int) -> str:
    """Return the section of a spec, and below it those of the specs in it."""
    inner = {field: cls for field, info in spec.model_fields.items() if (cls := nested(info.annotation))}
    title = f"\n{'#' * depth} {name}\n\n" + (f"{_words(spec.__doc__)}\n\n" if depth > TOP else "")
    return (
        title
        + _table(spec)
        + "".join(_section(f"{name}.{field}", cls, depth + 1) for field, cls in inner.items() if field not in BESIDE)
    )


def _table(spec: type[Spec]) -> str:
    plain = {field: info for field, info in spec.model_fields.items() if not nested(info.annotation)}
    rows = "".join(_row(field, info) for field, info in plain.items())
    return f"| field | default | what |\n|---|---|---|\n{rows}" if rows else ""


def _row(name: str, info: FieldInfo) -> str:
    default = "required" if info.default is PydanticUndefined and info.default_factory is None else _shown(info)
    return f"| `{name}` | {default} | {_words(info.description)} |\n"


def _words(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _shown(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    if isinstance(value, dict):
        return ", ".join(f"`{key}: {item}`" for key, item in value.items()) or "none"
    if isinstance(value, tuple | list):
        return ", ".join(f"`{item}`" for item in value) or "none"
    return "none" if value in (None, "") else f"`{value}`"


if __name__ == "__main__":
    sys.exit(0 if PAGE.write_text(page(), encoding="utf-8") else 1)
