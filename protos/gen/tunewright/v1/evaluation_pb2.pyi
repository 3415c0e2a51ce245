from tunewright.v1 import artifact_pb2 as _artifact_pb2
from tunewright.v1 import job_pb2 as _job_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EvaluationSpec(_message.Message):
    __slots__ = ("max_rows", "sample_count", "max_new_tokens", "concurrency")
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    max_rows: int
    sample_count: int
    max_new_tokens: int
    concurrency: int
    def __init__(self, max_rows: _Optional[int] = ..., sample_count: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., concurrency: _Optional[int] = ...) -> None: ...

class EvaluationTarget(_message.Message):
    __slots__ = ("model", "endpoint", "served_model_name")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SERVED_MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    model: _artifact_pb2.ArtifactRef
    endpoint: str
    served_model_name: str
    def __init__(self, model: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., endpoint: _Optional[str] = ..., served_model_name: _Optional[str] = ...) -> None: ...

class SubmitEvaluationRequest(_message.Message):
    __slots__ = ("spec", "dataset", "base", "tuned", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    TUNED_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: EvaluationSpec
    dataset: _artifact_pb2.ArtifactRef
    base: EvaluationTarget
    tuned: EvaluationTarget
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[EvaluationSpec, _Mapping]] = ..., dataset: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., base: _Optional[_Union[EvaluationTarget, _Mapping]] = ..., tuned: _Optional[_Union[EvaluationTarget, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class SubmitEvaluationResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...
