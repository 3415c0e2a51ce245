"""Structured logs on standard error: one line an event, with service and job id. Knows nothing of what is logged."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_job: ContextVar[str] = ContextVar("job", default="")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure(service: str, level: str, format_: str) -> None:
    """Send all logs of this process to standard error as `json` or `text` lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(service) if format_ == "json" else _Text(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("urllib3", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel("WARNING")


@contextmanager
def job_context(job_id: str) -> Iterator[None]:
    """Put the job's id on every line logged inside."""
    token = _job.set(job_id)
    try:
        yield
    finally:
        _job.reset(token)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    if job := _job.get():
        extra.setdefault("job_id", job)
    return extra


class _Json(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False, default=str)


class _Text(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {service} %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={str(value)[:64]}" for key, value in _fields(record).items())
        return f"{super().format(record)} {fields}".rstrip()
