from tunewright.v1 import artifact_pb2 as _artifact_pb2
from tunewright.v1 import job_pb2 as _job_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MergeSpec(_message.Message):
    __slots__ = ("probe_count", "probe_max_length", "max_kl", "max_shard_bytes", "min_golden_agreement", "max_golden_kl", "merge", "max_trained_kl")
    PROBE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROBE_MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_KL_FIELD_NUMBER: _ClassVar[int]
    MAX_SHARD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MIN_GOLDEN_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MAX_GOLDEN_KL_FIELD_NUMBER: _ClassVar[int]
    MERGE_FIELD_NUMBER: _ClassVar[int]
    MAX_TRAINED_KL_FIELD_NUMBER: _ClassVar[int]
    probe_count: int
    probe_max_length: int
    max_kl: float
    max_shard_bytes: int
    min_golden_agreement: float
    max_golden_kl: float
    merge: str
    max_trained_kl: float
    def __init__(self, probe_count: _Optional[int] = ..., probe_max_length: _Optional[int] = ..., max_kl: _Optional[float] = ..., max_shard_bytes: _Optional[int] = ..., min_golden_agreement: _Optional[float] = ..., max_golden_kl: _Optional[float] = ..., merge: _Optional[str] = ..., max_trained_kl: _Optional[float] = ...) -> None: ...

class SubmitMergeRequest(_message.Message):
    __slots__ = ("spec", "adapter", "base", "dataset", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: MergeSpec
    adapter: _artifact_pb2.ArtifactRef
    base: _artifact_pb2.ArtifactRef
    dataset: _artifact_pb2.ArtifactRef
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[MergeSpec, _Mapping]] = ..., adapter: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., base: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., dataset: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class SubmitMergeResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ExportSpec(_message.Message):
    __slots__ = ("format", "gguf_type", "probe_count", "probe_max_length", "max_kl", "max_shard_bytes")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    GGUF_TYPE_FIELD_NUMBER: _ClassVar[int]
    PROBE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROBE_MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_KL_FIELD_NUMBER: _ClassVar[int]
    MAX_SHARD_BYTES_FIELD_NUMBER: _ClassVar[int]
    format: str
    gguf_type: str
    probe_count: int
    probe_max_length: int
    max_kl: float
    max_shard_bytes: int
    def __init__(self, format: _Optional[str] = ..., gguf_type: _Optional[str] = ..., probe_count: _Optional[int] = ..., probe_max_length: _Optional[int] = ..., max_kl: _Optional[float] = ..., max_shard_bytes: _Optional[int] = ...) -> None: ...

class SubmitExportRequest(_message.Message):
    __slots__ = ("spec", "model", "dataset", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: ExportSpec
    model: _artifact_pb2.ArtifactRef
    dataset: _artifact_pb2.ArtifactRef
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[ExportSpec, _Mapping]] = ..., model: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., dataset: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class SubmitExportResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ImportSpec(_message.Message):
    __slots__ = ("source", "revision")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    source: str
    revision: str
    def __init__(self, source: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class SubmitImportRequest(_message.Message):
    __slots__ = ("spec", "validate_only")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    spec: ImportSpec
    validate_only: bool
    def __init__(self, spec: _Optional[_Union[ImportSpec, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class SubmitImportResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...
