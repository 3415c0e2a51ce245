"""Jobs, events and checkpoints as OpenAI's objects, from a job's record, its run and the run's events."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

_STATUS = {
    "pausing": "paused",
    "paused": "paused",
    "cancelling": "cancelled",
    "cancelled": "cancelled",
    "failed": "failed",
    "succeeded": "succeeded",
}
_LEVELS = {"warning": "warn", "error": "error"}
_METRICS = {
    "loss": "train_loss",
    "mean_token_accuracy": "train_mean_token_accuracy",
    "eval_loss": "valid_loss",
    "learning_rate": "learning_rate",
}
_SAID = {
    "queued": "Created fine-tuning job: {id}",
    "running": "Fine-tuning job started",
    "paused": "Fine-tuning job paused",
    "succeeded": "The job has successfully completed",
    "cancelled": "Fine-tuning job cancelled",
}
ENDED = {"succeeded", "failed", "cancelled"}


def stage(run: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return a stage of a run by name, None if it has none."""
    return next((found for found in run["stages"] if found["name"] == name), None)


def status_of(row: sa.Row[Any], run: Mapping[str, Any]) -> str:
    """Return OpenAI's status of a job. One that succeeded is `running` until its result files are made."""
    if row.cancelled_at is not None:
        return "cancelled"
    if run["state"] == "succeeded" and row.result_files is None:
        return "running"
    if run["state"] in _STATUS:
        return _STATUS[run["state"]]
    train, prepare = stage(run, "train"), stage(run, "prepare")
    if train is not None and train["state"] != "pending":
        return "running"
    return "queued" if prepare is not None and prepare["state"] == "succeeded" else "validating_files"


def job_object(row: sa.Row[Any], run: Mapping[str, Any], estimated_finish: int | None = None) -> dict[str, Any]:
    """Return OpenAI's job object."""
    request, status = json.loads(row.request), status_of(row, run)
    done = status == "succeeded"
    finished = run["finished_at"] if status in ENDED else None
    if status == "cancelled":
        finished = finished or row.cancelled_at
    method = request["method"]
    hyperparameters = method[method["type"]]["hyperparameters"]
    return {
        "id": row.id,
        "object": "fine_tuning.job",
        "created_at": int(row.created_at),
        "finished_at": None if finished is None else int(finished),
        "model": request["model"],
        "fine_tuned_model": row.model_name if done else None,
        "organization_id": f"org-{row.project}",
        "status": status,
        "hyperparameters": {name: value for name, value in hyperparameters.items() if name != "beta"},
        "method": method,
        "training_file": request["training_file"],
        "validation_file": request["validation_file"],
        "result_files": json.loads(row.result_files) if done else [],
        "trained_tokens": row.trained_tokens if done else None,
        "error": _error(run) if status == "failed" else None,
        "user_provided_suffix": request["suffix"],
        "seed": request["seed"],
        "metadata": request["metadata"],
        "integrations": [],
        "estimated_finish": estimated_finish if status == "running" else None,
        "tunewright": {"run": row.run_id, "state": run["state"], "stage": run["stage"], "artifacts": run["artifacts"]},
    }


def event_object(row: sa.Row[Any], event: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's event object."""
    figures = _figures(event)
    return {
        "id": event_id(row.id, event["sequence"]),
        "object": "fine_tuning.job.event",
        "created_at": int(event["time"]),
        "level": _LEVELS.get(event["severity"], "info"),
        "message": _message(row, event, figures),
        "type": "metrics" if figures else "message",
        "data": figures,
        "tunewright": {"stage": event["stage"], "type": event["type"], "sequence": event["sequence"]},
    }


def event_id(job_id: str, sequence: int) -> str:
    """Return the id of an event: the job's own digits and the number of the event."""
    return f"ftevent-{job_id.removeprefix('ftjob-')}-{sequence}"


def sequence_of(job_id: str, identifier: str) -> int | None:
    """Return the number of an event of a job; None if that is no id of one."""
    number = identifier.removeprefix(event_id(job_id, 0)[:-1])
    return int(number) if number.isascii() and number.isdigit() and number != identifier else None


def _figures(event: Mapping[str, Any]) -> dict[str, Any]:
    data = event["data"]
    if event["stage"] != "train" or event["type"] != "progress" or "step" not in data:
        return {}
    found = {ours: data[name] for name, ours in _METRICS.items() if name in data}
    return {"step": int(data["step"]), "total_steps": int(data.get("total", 0)), **found} if found else {}


def _message(row: sa.Row[Any], event: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    if figures:
        text = f"Step {figures['step']}/{figures['total_steps']}"
        losses = [("training loss", "train_loss"), ("validation loss", "valid_loss")]
        return ", ".join([text, *(f"{name}={figures[key]:.4f}" for name, key in losses if key in figures)])
    if event["type"] == "run" and event["severity"] == "info":
        said = _SAID.get(str(event["data"].get("state")))
        return str(event["message"]) if said is None else said.format(id=row.id)
    if event["type"] == "stage" and event["stage"] == "prepare" and event["data"].get("state") == "running":
        return f"Validating training file: {json.loads(row.request)['training_file']}"
    if event["type"] == "stage" and event["stage"] == "promote" and event["data"].get("state") == "succeeded":
        return f"New fine-tuned model created: {row.model_name}"
    return str(event["message"])


def _error(run: Mapping[str, Any]) -> dict[str, Any]:
    failure = run["failure"] or {"reason": "INTERNAL", "message": "the run ended without saying why", "stage": None}
    of_the_file = failure["stage"] == "prepare" and failure["reason"] == "INVALID_DATA"
    return {
        "code": "invalid_training_file" if of_the_file else failure["reason"].lower(),
        "message": failure["message"],
        "param": "training_file" if of_the_file else None,
    }
