from tunewright.v1 import artifact_pb2 as _artifact_pb2
from tunewright.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataprepSpec(_message.Message):
    __slots__ = ("format", "system_prompt", "seed", "max_invalid_fraction", "sources", "reading", "cleaning", "filters", "pii", "duplicates", "conflicts", "contamination", "split", "mixing", "audit")
    class Reading(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Cleaning(_message.Message):
        __slots__ = ("html",)
        HTML_FIELD_NUMBER: _ClassVar[int]
        html: bool
        def __init__(self, html: _Optional[bool] = ...) -> None: ...
    class Filters(_message.Message):
        __slots__ = ("min_answer_chars", "max_chars")
        MIN_ANSWER_CHARS_FIELD_NUMBER: _ClassVar[int]
        MAX_CHARS_FIELD_NUMBER: _ClassVar[int]
        min_answer_chars: int
        max_chars: int
        def __init__(self, min_answer_chars: _Optional[int] = ..., max_chars: _Optional[int] = ...) -> None: ...
    class Pii(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Duplicates(_message.Message):
        __slots__ = ("exact",)
        EXACT_FIELD_NUMBER: _ClassVar[int]
        exact: bool
        def __init__(self, exact: _Optional[bool] = ...) -> None: ...
    class Conflicts(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Contamination(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Split(_message.Message):
        __slots__ = ("validation_fraction",)
        VALIDATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
        validation_fraction: float
        def __init__(self, validation_fraction: _Optional[float] = ...) -> None: ...
    class Mixing(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class Audit(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_INVALID_FRACTION_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    CLEANING_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    PII_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    CONFLICTS_FIELD_NUMBER: _ClassVar[int]
    CONTAMINATION_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    MIXING_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    format: str
    system_prompt: str
    seed: int
    max_invalid_fraction: float
    sources: _containers.RepeatedCompositeFieldContainer[DataSource]
    reading: DataprepSpec.Reading
    cleaning: DataprepSpec.Cleaning
    filters: DataprepSpec.Filters
    pii: DataprepSpec.Pii
    duplicates: DataprepSpec.Duplicates
    conflicts: DataprepSpec.Conflicts
    contamination: DataprepSpec.Contamination
    split: DataprepSpec.Split
    mixing: DataprepSpec.Mixing
    audit: DataprepSpec.Audit
    def __init__(self, format: _Optional[str] = ..., system_prompt: _Optional[str] = ..., seed: _Optional[int] = ..., max_invalid_fraction: _Optional[float] = ..., sources: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., reading: _Optional[_Union[DataprepSpec.Reading, _Mapping]] = ..., cleaning: _Optional[_Union[DataprepSpec.Cleaning, _Mapping]] = ..., filters: _Optional[_Union[DataprepSpec.Filters, _Mapping]] = ..., pii: _Optional[_Union[DataprepSpec.Pii, _Mapping]] = ..., duplicates: _Optional[_Union[DataprepSpec.Duplicates, _Mapping]] = ..., conflicts: _Optional[_Union[DataprepSpec.Conflicts, _Mapping]] = ..., contamination: _Optional[_Union[DataprepSpec.Contamination, _Mapping]] = ..., split: _Optional[_Union[DataprepSpec.Split, _Mapping]] = ..., mixing: _Optional[_Union[DataprepSpec.Mixing, _Mapping]] = ..., audit: _Optional[_Union[DataprepSpec.Audit, _Mapping]] = ...) -> None: ...

class DataSource(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

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
