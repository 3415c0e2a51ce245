from tunewright.v1 import artifact_pb2 as _artifact_pb2
from tunewright.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataprepSpec(_message.Message):
    __slots__ = ("format", "system_prompt", "min_answer_chars", "max_chars", "validation_fraction", "seed", "strip_html", "deduplicate", "max_invalid_fraction")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    MIN_ANSWER_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_CHARS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STRIP_HTML_FIELD_NUMBER: _ClassVar[int]
    DEDUPLICATE_FIELD_NUMBER: _ClassVar[int]
    MAX_INVALID_FRACTION_FIELD_NUMBER: _ClassVar[int]
    format: str
    system_prompt: str
    min_answer_chars: int
    max_chars: int
    validation_fraction: float
    seed: int
    strip_html: bool
    deduplicate: bool
    max_invalid_fraction: float
    def __init__(self, format: _Optional[str] = ..., system_prompt: _Optional[str] = ..., min_answer_chars: _Optional[int] = ..., max_chars: _Optional[int] = ..., validation_fraction: _Optional[float] = ..., seed: _Optional[int] = ..., strip_html: _Optional[bool] = ..., deduplicate: _Optional[bool] = ..., max_invalid_fraction: _Optional[float] = ...) -> None: ...

class SubmitDataprepRequest(_message.Message):
    __slots__ = ("spec", "uploads", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: DataprepSpec
    uploads: _containers.RepeatedCompositeFieldContainer[_artifact_pb2.ArtifactRef]
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[DataprepSpec, _Mapping]] = ..., uploads: _Optional[_Iterable[_Union[_artifact_pb2.ArtifactRef, _Mapping]]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class SubmitDataprepResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...
