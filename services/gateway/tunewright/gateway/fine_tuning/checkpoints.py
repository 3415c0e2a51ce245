"""Checkpoints of a job: what the trainer kept of each step, and how one of them becomes a model that answers.

The store keeps the newest two of a training. Asked for in chat, one is made an adapter on the job's base (its weights
renamed as PEFT saves them, everything else the finished adapter's own) and deployed beside it. Knows no HTTP.
"""

import json
import re
import shutil
import struct
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tunewright.artifacts import ArtifactError, ArtifactRef, Kind, Manifest, ObjectNotFound, Store, seal
from tunewright.artifacts import checkpoints as stored
from tunewright.artifacts.layout import checkpoint_prefix, file_key, is_log
from tunewright.artifacts.transfer import commit, fetch, load_folder_manifest, load_manifest
from tunewright.chassis.errors import Conflict, NotFound, Violation
from tunewright.gateway import stages
from tunewright.gateway.clients import Rooms
from tunewright.gateway.fine_tuning.objects import stage
from tunewright.gateway.fine_tuning.settling import training_log
from tunewright.gateway.job_records import JobRecords
from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.owners import DEPLOYMENT, Owners
from tunewright.gateway.recipe import parse
from tunewright.gateway.routing import ModelNotFound
from tunewright.gateway.views import RunViews
from tunewright.gateway.visible import CHECKPOINT, checkpoint_deployment, checkpoint_name

_WEIGHTS = "trained.safetensors"
_ADAPTER = "adapter_model.safetensors"
_LEFT_OUT = {_ADAPTER, "golden.json", "search.json", "search.html"}
"""Of the finished adapter: its weights, and what is told of them."""
_METRICS = {
    "loss": "train_loss",
    "mean_token_accuracy": "train_mean_token_accuracy",
    "eval_loss": "full_valid_loss",
}
_MAGNITUDE = re.compile(r"\.lora_magnitude_vector\.default(\.weight)?$")


class Checkpoints:
    """The checkpoints of all jobs."""

    def __init__(
        self, *, store: Store, records: JobRecords, views: RunViews, rooms: Rooms, owners: Owners, folder: Path
    ) -> None:
        self._store = store
        self._records = records
        self._views = views
        self._rooms = rooms
        self._owners = owners
        self._folder = folder

    def of_job(self, project: str, job_id: str) -> list[dict[str, Any]]:
        """Return the checkpoints of a job, newest first. Raises NotFound."""
        row = self._records.get(project, job_id)
        run = self._run(row)
        train = None if run is None else stage(run, "train")
        if run is None or train is None or train["job_id"] is None:
            return []
        figures = self._figures(run)
        steps = [step for step in stored.steps(self._store, train["job_id"]) if step]
        found = [(step, self._manifest(train["job_id"], step)) for step in steps]
        return [_object(row, step, figures.get(step, {}), run) for step, manifest in found if manifest is not None]

    def deploy(self, key: KeyRecord, model: str) -> None:
        """Begin to serve the checkpoint that a name stands for; it answers by that name a while later.

        Raises:
            ModelNotFound: the key's project has no such checkpoint.
            TunewrightError, ArtifactError: the store or the inference room fails.
        """
        found = CHECKPOINT.fullmatch(model)
        row = None if found is None else self._records.of_model(key.project, found[1])
        if found is None or row is None or row.model_deleted_at is not None:
            raise _unknown(model)
        run, step = self._run(row), int(found[2])
        if run is None or run["state"] != "succeeded":
            raise _unknown(model)
        adapter = ArtifactRef.parse(run["artifacts"]["train"])
        job_id = (stage(run, "train") or {}).get("job_id")
        if adapter.kind is not Kind.ADAPTER or job_id is None or self._manifest(job_id, step) is None:
            raise _unknown(model)
        made = self._adapter(adapter, str(job_id), step)
        recipe = parse(run["recipe"])
        base = load_manifest(self._store, adapter).parents["base"]
        name = checkpoint_deployment(row.id, step)
        self._owners.note(DEPLOYMENT, name, key)
        inputs = stages.Inputs({"model": ArtifactRef.parse(base), "adapter": made})
        stages.deploy_adapter(self._rooms, recipe, name, inputs)

    def stop(self, job_id: str) -> None:
        """Stop what is served of a job's checkpoints."""
        prefix = checkpoint_deployment(job_id, "")
        for item in self._rooms.deployments():
            if item.name.startswith(prefix):
                with suppress(NotFound, Conflict):  # stopped already
                    self._rooms.undeploy(item.name)

    def _run(self, row: sa.Row[Any]) -> dict[str, Any] | None:
        try:
            return self._views.get(row.run_id)
        except NotFound:
            return None

    def _manifest(self, train_job: str, step: int) -> Manifest | None:
        """Return the manifest of a checkpoint that holds weights, None if that step has none."""
        try:
            manifest = load_folder_manifest(self._store, checkpoint_prefix(train_job, step))
        except ObjectNotFound:
            return None
        return manifest if any(entry.path == _WEIGHTS for entry in manifest.files) else None

    def _figures(self, run: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """Return step → figures, of the finished training's log or else of what was told while it ran."""
        by_step: dict[int, dict[str, Any]] = {}
        history: list[dict[str, Any]] = []
        if "train" in run["artifacts"]:
            ref = ArtifactRef.parse(run["artifacts"]["train"])
            try:
                history = training_log(self._store, load_manifest(self._store, ref))
            except ArtifactError:
                history = []
        for entry in history or self._views.figures(run["id"], "train"):
            by_step.setdefault(int(entry["step"]), {}).update(entry)
        return by_step

    def _adapter(self, finished: ArtifactRef, train_job: str, step: int) -> ArtifactRef:
        """Return the adapter artifact of a checkpoint, made if it is not there."""
        manifest = load_manifest(self._store, finished)
        keep = [e.path for e in manifest.files if e.path not in _LEFT_OUT and not is_log(e.path)]
        self._folder.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            fetch(self._store, finished, place / "adapter", only=keep)
            checkpoint = load_folder_manifest(self._store, checkpoint_prefix(train_job, step))
            (entry,) = (found for found in checkpoint.files if found.path == _WEIGHTS)
            where = file_key(checkpoint_prefix(train_job, step), entry.path, entry.sha256)
            self._store.get_file(where, place / _WEIGHTS, size_bytes=entry.size_bytes, sha256=entry.sha256)
            as_peft_saves(place / _WEIGHTS, place / "adapter" / _ADAPTER)
            draft = manifest.model_copy(
                update={
                    "created_by": "gateway",
                    "spec": {**manifest.spec, "checkpoint_step": step},
                    "metrics": {"step": step},
                    "files": (),
                }
            )
            parents = {name: ArtifactRef.parse(text) for name, text in manifest.parents.items()}
            return commit(self._store, seal(draft, place / "adapter", parents), place / "adapter")
        finally:
            shutil.rmtree(place, ignore_errors=True)


def as_peft_saves(source: Path, target: Path) -> None:
    """Write a file of safetensors with its tensors named as PEFT saves an adapter; their bytes stay.

    Format: 8 bytes with the length of the header (little endian), a header of JSON, the tensors.
    """
    with source.open("rb") as read, target.open("wb") as written:
        (length,) = struct.unpack("<Q", read.read(8))
        header = json.loads(read.read(length))
        named = {_peft_name(name): value for name, value in header.items()}
        data = json.dumps(named, separators=(",", ":")).encode()
        data += b" " * (-len(data) % 8)
        written.write(struct.pack("<Q", len(data)) + data)
        shutil.copyfileobj(read, written)


def _peft_name(name: str) -> str:
    name = _MAGNITUDE.sub(".lora_magnitude_vector", name)
    return name.replace(".modules_to_save.default.", ".").replace(".default.", ".")


def _object(row: sa.Row[Any], step: int, figures: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    train = stage(run, "train") or {}
    created = figures.get("time") or train.get("finished_at") or train.get("started_at") or row.created_at
    metrics = {ours: figures[name] for name, ours in _METRICS.items() if name in figures}
    return {
        "id": f"ftckpt-{row.id.removeprefix('ftjob-')}-{step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": int(created),
        "fine_tuning_job_id": row.id,
        "fine_tuned_model_checkpoint": checkpoint_name(row.model_name, step),
        "step_number": step,
        "metrics": {"step": step, **metrics},
    }


def _unknown(model: str) -> ModelNotFound:
    found = [Violation("model", "unknown checkpoint")]
    return ModelNotFound(f"The model {model!r} does not exist or you do not have access to it.", violations=found)
