"""What a job leaves when it has succeeded: its result file and the tokens it was trained on.

Made when somebody asks for the job or for files, from artifacts that do not change, so it may be made twice.
"""

import csv
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tunewright.artifacts import ArtifactRef, Manifest, Store
from tunewright.artifacts.layout import artifact_prefix, file_key
from tunewright.artifacts.transfer import load_manifest
from tunewright.gateway.filing import RESULTS, Filing
from tunewright.gateway.job_records import JobRecords
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.views import RunViews

_LOG = "logs/training_log.jsonl"
_COLUMNS = {
    "step": "step",
    "loss": "train_loss",
    "mean_token_accuracy": "train_accuracy",
    "eval_loss": "valid_loss",
    "learning_rate": "learning_rate",
}
_FILENAME = "step_metrics.csv"


def settle(
    row: sa.Row[Any], run: Mapping[str, Any], *, files: Filing, views: RunViews, jobs: JobRecords, folder: Path
) -> None:
    """Make the result file of a job that succeeded and note it with the trained tokens; once is enough.

    Raises:
        TunewrightError, ArtifactError: the store or the database fails; it is tried again at the next question.
    """
    manifest = load_manifest(files.store, ArtifactRef.parse(run["artifacts"]["train"]))
    history = training_log(files.store, manifest) or views.figures(row.run_id, "train")
    owner = KeyRecord(id=row.key_id, name="", created_at=0, salt="", sha256="", project=row.project)
    folder.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        (place / _FILENAME).write_text(_table(history), encoding="utf-8")
        made = files.add(owner, place, purpose=RESULTS)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    tokens = int(manifest.metrics.get("tokens") or 0)
    jobs.settle(row.id, trained_tokens=tokens, result_files=[made["id"]])


def training_log(store: Store, manifest: Manifest) -> list[dict[str, Any]]:
    """Return the figures of every step and evaluation of a training, none if its artifact keeps no log."""
    for entry in manifest.files:
        if entry.path == _LOG:
            data = store.get_bytes(file_key(artifact_prefix(manifest.ref), entry.path, entry.sha256))
            return [json.loads(line) for line in data.splitlines()]
    return []


def _table(history: list[dict[str, Any]]) -> str:
    """Return CSV with one line a step; figures of an evaluation stand in the line of its step."""
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        by_step.setdefault(int(entry["step"]), {}).update({n: entry[n] for n in _COLUMNS if n in entry})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS.values())
    for step in sorted(by_step):
        table.writerow([step, *(by_step[step].get(name, "") for name in list(_COLUMNS)[1:])])
    return text.getvalue()
