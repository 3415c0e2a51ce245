"""Fine-tuning jobs: made ready, started, looked at. Knows no HTTP but the names of a request's fields."""

import json
import secrets
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tunewright.artifacts import ArtifactError
from tunewright.chassis.errors import InvalidSpec, NotFound, TunewrightError, Violation
from tunewright.gateway.filing import FINE_TUNE, Filing
from tunewright.gateway.fine_tuning import settling
from tunewright.gateway.fine_tuning.objects import job_object
from tunewright.gateway.fine_tuning.plan import Plan, plan
from tunewright.gateway.fine_tuning.request import CreateJob
from tunewright.gateway.fine_tuning.rows import Found, check
from tunewright.gateway.job_records import JobRecords
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.recipe import Recipe, parse
from tunewright.gateway.routing import ModelNotFound
from tunewright.gateway.views import RunViews
from tunewright.gateway.visible import VisibleModels

_SHORT_ID = 8
_SEED_BITS = 31
_OURS = {
    "training.num_train_epochs": "n_epochs",
    "training.per_device_train_batch_size": "batch_size",
    "training.gradient_accumulation_steps": "batch_size",
    "training.learning_rate": "learning_rate_multiplier",
    "training.beta": "beta",
    "training.seed": "seed",
    "data[0].file": "training_file",
    "data[1].file": "validation_file",
    "base_model": "model",
}
"""A recipe's path → the field of the request that it was made from."""


class FineTuning:
    """The jobs of all projects."""

    def __init__(
        self, *, files: Filing, records: JobRecords, views: RunViews, models: VisibleModels, folder: Path
    ) -> None:
        self._files = files
        self.records = records
        self._views = views
        self._models = models
        self._folder = folder

    def prepare(self, wanted: CreateJob, key: KeyRecord) -> tuple[str, Recipe, dict[str, Any]]:
        """Check a request as far as the gateway can; return the job's id, its recipe and its record.

        Raises:
            InvalidSpec, InvalidData: what is wrong, by the request's fields, and by line and field in a file.
        """
        found = self._check_files(wanted, key.project)
        base_model, root = self._base(key.project, wanted.model)
        job_id, seed = f"ftjob-{secrets.token_hex(12)}", secrets.randbits(_SEED_BITS)
        seed = seed if wanted.seed is None else wanted.seed
        made = plan(job_id, wanted, found, base_model=base_model, seed=seed)
        try:
            recipe = parse(made.recipe)
        except InvalidSpec as error:
            raise renamed(error) from error
        short = job_id.removeprefix("ftjob-")[:_SHORT_ID]
        return job_id, recipe, {
            "run_id": f"run-{job_id.removeprefix('ftjob-')}",
            "project": key.project,
            "key_id": key.id,
            "request": json.dumps(_kept(wanted, made, seed)),
            "model_name": f"ft:{root}:{key.project}:{wanted.suffix or ''}:{short}",
            "base_model": wanted.model,
            "base_deployment": made.base_deployment,
        }  # fmt: skip

    def get(self, project: str, job_id: str) -> dict[str, Any]:
        """Return a job. Raises NotFound."""
        row = self.records.get(project, job_id)
        return self._object(row)

    def newest(self, project: str, limit: int, after: str | None, metadata: dict[str, str] | None) -> list[Any]:
        """Return at most `limit` jobs, newest first. Raises NotFound if there is no job `after`."""
        return [self._object(row) for row in self.records.newest(project, limit, after, metadata)]

    def settle_all(self, project: str) -> None:
        """Make the result files of the project's jobs that succeeded."""
        for row in self.records.unsettled(project):
            self._object(row)

    def _object(self, row: sa.Row[Any]) -> dict[str, Any]:
        try:
            run = self._views.get(row.run_id)
        except NotFound:
            run = _never_started(row)
        if run["state"] == "succeeded" and row.result_files is None:
            try:
                settling.settle(row, run, files=self._files, views=self._views, jobs=self.records, folder=self._folder)
            except (ArtifactError, TunewrightError):
                return job_object(row, run)  # still running to those who ask, until the store answers
            row = self.records.get(row.project, row.id)
        return job_object(row, run, self._views.estimated_finish(row.run_id) if run["stage"] == "train" else None)

    def _check_files(self, wanted: CreateJob, project: str) -> Found:
        found = self._check_file(wanted, project, "training_file")
        if wanted.validation_file is not None:
            held = self._check_file(wanted, project, "validation_file")
            if held.format != found.format:
                raise _wrong("validation_file", f"its rows are {held.format}, the training file's {found.format}")
        elif found.rows < 2:  # noqa: PLR2004 - one is trained on, one is held out
            text = "one row is too few: at least two are expected, as one is held out where no validation_file is given"
            raise _wrong("training_file", text)
        return found

    def _check_file(self, wanted: CreateJob, project: str, param: str) -> Found:
        file_id = getattr(wanted, param)
        try:
            described = self._files.describe(project, file_id)
        except NotFound as error:
            raise _wrong(param, f"there is no file {file_id!r:.100}") from error
        if described["purpose"] != FINE_TUNE:
            raise _wrong(param, f"a file with the purpose {FINE_TUNE!r} is expected, found {described['purpose']!r}")
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            path = Path(folder) / "rows"
            self._files.fetch(project, file_id, path)
            return check(path, wanted.kind, param)

    def _base(self, project: str, model: str) -> tuple[str, str]:
        """Return what a recipe says for a model, and the name of the base at its root."""
        try:
            found = self._models.get(project, model)
        except ModelNotFound:
            if model.startswith("ft:"):
                raise
            return model, model
        if found.served.deployment.HasField("adapter"):
            text = "it is served as an adapter on its base; a merged model is expected"
            raise _wrong("model", text)
        return found.served.artifact, found.root or model


def renamed(error: InvalidSpec) -> TunewrightError:
    """Return an error about a recipe as one about the request that the recipe was made from."""
    found = [Violation(_field(violation.field), violation.description) for violation in error.violations]
    text = "; ".join(f"{v.field}: {v.description}" for v in found) or error.message
    if any(violation.field == "model" for violation in found):
        return ModelNotFound(f"The model cannot be tuned or does not exist: {text}", violations=found)
    return InvalidSpec(text, violations=found)


def _field(path: str) -> str:
    return _OURS.get(path, f"tunewright.recipe.{path}")


def _kept(wanted: CreateJob, made: Plan, seed: int) -> dict[str, Any]:
    return {
        "model": wanted.model,
        "training_file": wanted.training_file,
        "validation_file": wanted.validation_file,
        "suffix": wanted.suffix,
        "seed": seed,
        "metadata": wanted.metadata,
        "method": {"type": wanted.kind, wanted.kind: {"hyperparameters": made.hyperparameters}},
    }


def _never_started(row: sa.Row[Any]) -> dict[str, Any]:
    failure = {"reason": "INTERNAL", "message": "the gateway ended before the job was started", "stage": None}
    return {
        "state": "failed", "stage": None, "stages": [], "artifacts": {}, "failure": failure,
        "finished_at": row.created_at,
    }  # fmt: skip


def _wrong(field: str, description: str) -> InvalidSpec:
    return InvalidSpec(f"{field}: {description}", violations=[Violation(field, description)])
