"""The record of a job in the store, and its shape on the wire. Knows nothing of how a job is run."""

import time
from enum import StrEnum
from typing import Any, Self, cast

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict, Field

from tunewright.artifacts import ArtifactRef, Kind, ObjectNotFound, Store
from tunewright.artifacts.layout import job_prefix
from tunewright.chassis.errors import TunewrightError
from tunewright.v1 import artifact_pb2, job_pb2

_KINDS = {
    Kind.UPLOAD: artifact_pb2.ARTIFACT_KIND_UPLOAD,
    Kind.DATASET: artifact_pb2.ARTIFACT_KIND_DATASET,
    Kind.ADAPTER: artifact_pb2.ARTIFACT_KIND_ADAPTER,
    Kind.MODEL: artifact_pb2.ARTIFACT_KIND_MODEL,
    Kind.REPORT: artifact_pb2.ARTIFACT_KIND_REPORT,
}


class State(StrEnum):
    """State of a job; the value is the name of the proto's enum without its prefix."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """True if nothing more happens by itself."""
        return self in {State.SUCCEEDED, State.FAILED, State.CANCELLED}

    def to_proto(self) -> job_pb2.JobState:
        """Return the proto's enum value."""
        return cast("job_pb2.JobState", job_pb2.JobState.Value(f"JOB_STATE_{self.value}"))


class Failure(BaseModel):
    """Why a job failed."""

    model_config = ConfigDict(frozen=True)

    reason: str
    message: str
    remedy: str
    retryable: bool

    @classmethod
    def of(cls, error: TunewrightError) -> Self:
        """Return the failure that this error is."""
        return cls(reason=error.reason, message=error.message, remedy=error.remedy, retryable=error.retryable)


class JobRecord(BaseModel):
    """Everything needed to run a job again after the service was killed."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    service: str
    stage: str
    """Name of the stage in the service's table."""
    spec: dict[str, Any]
    inputs: dict[str, str]
    """Input name → artifact reference; downloaded."""
    references: dict[str, str]
    """Name → artifact reference; part of the identity, not downloaded."""
    runtime: dict[str, Any] = Field(default_factory=dict)
    state: State = State.QUEUED
    create_time: float = Field(default_factory=time.time)
    """Unix time, seconds; likewise below."""
    start_time: float | None = None
    end_time: float | None = None
    result: str | None = None
    failure: Failure | None = None
    attempt: int = 0

    def save(self, store: Store) -> None:
        """Write this state over the one before."""
        store.put_bytes(_key(self.service, self.job_id), self.model_dump_json(indent=1).encode())

    def to_proto(self, last_sequence: int = 0) -> job_pb2.Job:
        """Return the job as callers see it."""
        job = job_pb2.Job(
            job_id=self.job_id,
            service=self.service,
            state=self.state.to_proto(),
            last_sequence=last_sequence,
            create_time=timestamp(self.create_time),
            attempt=self.attempt,
        )
        if self.start_time is not None:
            job.start_time.CopyFrom(timestamp(self.start_time))
        if self.end_time is not None:
            job.end_time.CopyFrom(timestamp(self.end_time))
        if self.result is not None:
            job.result.CopyFrom(ref_to_proto(ArtifactRef.parse(self.result)))
        if self.failure is not None:
            job.failure.CopyFrom(job_pb2.JobFailure(**self.failure.model_dump()))
        return job


def load(store: Store, service: str, job_id: str) -> JobRecord | None:
    """Return the record of a job, None if there is none."""
    try:
        return JobRecord.model_validate_json(store.get_bytes(_key(service, job_id)))
    except ObjectNotFound:
        return None


def load_all(store: Store, service: str) -> list[JobRecord]:
    """Return the records of all jobs of a service, newest first."""
    keys = [info.key for info in store.list(job_prefix(service)) if info.key.endswith("/job.json")]
    found = [JobRecord.model_validate_json(store.get_bytes(key)) for key in keys]
    return sorted(found, key=lambda record: record.create_time, reverse=True)


def ref_to_proto(ref: ArtifactRef) -> artifact_pb2.ArtifactRef:
    """Return the reference as a proto message."""
    return artifact_pb2.ArtifactRef(kind=_KINDS[ref.kind], id=ref.id)


def ref_from_proto(message: artifact_pb2.ArtifactRef) -> ArtifactRef:
    """Return the reference in a proto message.

    Raises:
        InvalidRef: no kind, or a malformed id.
    """
    kinds = {value: kind for kind, value in _KINDS.items()}
    kind = kinds.get(message.kind)
    return ArtifactRef.parse(f"{kind.value if kind else '(no kind)'}/{message.id}")


def timestamp(seconds: float) -> Timestamp:
    """Return Unix time as a proto message."""
    message = Timestamp()
    message.FromNanoseconds(int(seconds * 1e9))
    return message


def _key(service: str, job_id: str) -> str:
    return f"{job_prefix(service, job_id)}job.json"
