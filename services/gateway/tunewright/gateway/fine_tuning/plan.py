"""From a job's settings to a recipe: "auto" chosen, multipliers multiplied, rows left as they are. Knows no room.

A job trains on what was uploaded: nothing is cleaned, masked, filtered or thrown out as a duplicate unless the request
asks for it in `tunewright.recipe.dataprep`.
"""

import copy
import hashlib
import re
from dataclasses import dataclass
from typing import Any

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.gateway.fine_tuning.request import AUTO, CreateJob, DpoHyperparameters
from tunewright.gateway.fine_tuning.rows import Found

LEARNING_RATES = {"supervised": 2e-4, "dpo": 1e-5}
"""What the multiplier is of: the trainer's own rates for adapters; a test holds them to it."""
_EPOCHS = 3
_FEW_ROWS, _MOST_EPOCHS = 100, 25
"""Fewer rows are seen more often, up to so many times in all: as OpenAI's cookbook estimates its own choice."""
_BATCH_ROWS = 16
_MICRO_BATCH = 2
_SECTIONS = ("dataprep", "training", "merging", "evaluation", "deployment")
_AS_THEY_ARE: dict[str, Any] = {
    "max_invalid_fraction": 0.0,
    "cleaning": {
        "html": False, "line_endings": False, "control_characters": False, "invisible_characters": False,
        "mojibake": False, "unicode": "none", "trailing_space": False, "outer_space": False,
        "boilerplate_lines": False, "repeated_lines": False,
    },
    "filters": {
        "min_answer_chars": 0, "max_chars": 100_000_000, "repetition": False, "boilerplate": False,
        "refusals": False, "garbled": False,
    },
    "pii": dict.fromkeys(("emails", "phones", "cards", "ibans", "national_ids", "secrets"), "keep"),
    "duplicates": {"exact": False, "near": False},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job made ready."""

    recipe: dict[str, Any]
    hyperparameters: dict[str, Any]
    """What was chosen, by OpenAI's names."""
    base_deployment: str


def plan(job_id: str, wanted: CreateJob, found: Found, *, base_model: str, seed: int) -> Plan:
    """Return the recipe of a job.

    Args:
        job_id: the run's name too.
        wanted: the request.
        found: what the training file holds.
        base_model: what the recipe says for `wanted.model`.
        seed: of the training.

    Raises:
        InvalidSpec: the extension names what is no section.
    """
    extension = _extension(wanted)
    base_name = _base_name(base_model)
    data = [{"file": wanted.training_file}]
    if wanted.validation_file is not None:
        data = [{**data[0], "use": "train"}, {"file": wanted.validation_file, "use": "validation"}]
    training, chosen = _training(wanted, found, extension.get("training", {}), seed)
    dataprep = _over(_AS_THEY_ARE | {"format": found.format, "seed": seed % 2**32}, extension.get("dataprep", {}))
    recipe = {**extension, "name": job_id, "base_model": base_model, "base_name": base_name, "data": data}
    return Plan(
        recipe={**recipe, "dataprep": dataprep, "training": training},
        hyperparameters=chosen,
        base_deployment=base_name,
    )


def _training(
    wanted: CreateJob, found: Found, extension: dict[str, Any], seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    settings, kind = wanted.settings, wanted.kind
    training: dict[str, Any] = {**extension, "objective": "dpo" if kind == "dpo" else "sft", "seed": seed}
    if settings.n_epochs != AUTO or "num_train_epochs" not in training:
        training["num_train_epochs"] = _epochs(found.rows) if settings.n_epochs == AUTO else settings.n_epochs
    names = ("per_device_train_batch_size", "gradient_accumulation_steps")
    if settings.batch_size != AUTO or not any(name in training for name in names):
        rows = max(1, min(_BATCH_ROWS, found.rows // 8)) if settings.batch_size == AUTO else int(settings.batch_size)
        micro = _MICRO_BATCH if rows % _MICRO_BATCH == 0 else 1
        training |= dict(zip(names, (micro, rows // micro), strict=True))
    rate = LEARNING_RATES[kind]
    if settings.learning_rate_multiplier != AUTO:
        training["learning_rate"] = rate * float(settings.learning_rate_multiplier)
    chosen: dict[str, Any] = {
        "n_epochs": training["num_train_epochs"],
        "batch_size": training.get(names[0], _MICRO_BATCH) * training.get(names[1], _BATCH_ROWS // _MICRO_BATCH),
        "learning_rate_multiplier": round(float(training.get("learning_rate", rate)) / rate, 9),
    }
    if isinstance(settings, DpoHyperparameters) and kind == "dpo":
        if settings.beta != AUTO:
            training["beta"] = settings.beta
        chosen["beta"] = training.get("beta", 0.1)
    elif kind == "dpo":
        chosen["beta"] = training.get("beta", 0.1)
    return training, chosen


def _epochs(rows: int) -> int:
    if rows * _EPOCHS >= _FEW_ROWS:
        return _EPOCHS
    return min(_MOST_EPOCHS, -(-_FEW_ROWS // rows))


def _extension(wanted: CreateJob) -> dict[str, Any]:
    given = {} if wanted.tunewright is None else copy.deepcopy(wanted.tunewright.recipe)
    for name, value in given.items():
        path = f"tunewright.recipe.{name}"
        if name not in _SECTIONS:
            why = f"sections are {', '.join(_SECTIONS)}"
            raise InvalidSpec(f"{path}: {why}", violations=[Violation(path, why)])
        if not isinstance(value, dict):
            why = "an object is expected"
            raise InvalidSpec(f"{path}: {why}", violations=[Violation(path, why)])
    return given


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with what `above` says, section by section."""
    merged = dict(below)
    for name, value in above.items():
        standing = merged.get(name)
        merged[name] = _over(standing, value) if isinstance(standing, dict) and isinstance(value, dict) else value
    return merged


def _base_name(base_model: str) -> str:
    """Return the name under which jobs on one base deploy it: once for all of them."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", base_model.lower().removeprefix("models/"))[:26].strip("-._") or "base"
    return f"{slug}-{hashlib.sha256(base_model.encode()).hexdigest()[:8]}-base"
