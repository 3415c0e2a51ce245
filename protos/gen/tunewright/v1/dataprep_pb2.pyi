from tunewright.v1 import artifact_pb2 as _artifact_pb2
from tunewright.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DataprepSpec(_message.Message):
    __slots__ = ("format", "system_prompt", "seed", "max_invalid_fraction", "sources", "reading", "cleaning", "filters", "pii", "duplicates", "conflicts", "split", "mixing", "contamination", "semantic", "audit", "launcher", "workers")
    class Reading(_message.Message):
        __slots__ = ("encoding", "delimiter", "piece_chars")
        ENCODING_FIELD_NUMBER: _ClassVar[int]
        DELIMITER_FIELD_NUMBER: _ClassVar[int]
        PIECE_CHARS_FIELD_NUMBER: _ClassVar[int]
        encoding: str
        delimiter: str
        piece_chars: int
        def __init__(self, encoding: _Optional[str] = ..., delimiter: _Optional[str] = ..., piece_chars: _Optional[int] = ...) -> None: ...
    class Cleaning(_message.Message):
        __slots__ = ("html", "line_endings", "control_characters", "invisible_characters", "mojibake", "unicode", "trailing_space", "outer_space", "boilerplate_lines", "repeated_lines")
        HTML_FIELD_NUMBER: _ClassVar[int]
        LINE_ENDINGS_FIELD_NUMBER: _ClassVar[int]
        CONTROL_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
        INVISIBLE_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
        MOJIBAKE_FIELD_NUMBER: _ClassVar[int]
        UNICODE_FIELD_NUMBER: _ClassVar[int]
        TRAILING_SPACE_FIELD_NUMBER: _ClassVar[int]
        OUTER_SPACE_FIELD_NUMBER: _ClassVar[int]
        BOILERPLATE_LINES_FIELD_NUMBER: _ClassVar[int]
        REPEATED_LINES_FIELD_NUMBER: _ClassVar[int]
        html: bool
        line_endings: bool
        control_characters: bool
        invisible_characters: bool
        mojibake: bool
        unicode: str
        trailing_space: bool
        outer_space: bool
        boilerplate_lines: bool
        repeated_lines: bool
        def __init__(self, html: _Optional[bool] = ..., line_endings: _Optional[bool] = ..., control_characters: _Optional[bool] = ..., invisible_characters: _Optional[bool] = ..., mojibake: _Optional[bool] = ..., unicode: _Optional[str] = ..., trailing_space: _Optional[bool] = ..., outer_space: _Optional[bool] = ..., boilerplate_lines: _Optional[bool] = ..., repeated_lines: _Optional[bool] = ...) -> None: ...
    class Filters(_message.Message):
        __slots__ = ("min_answer_chars", "max_chars", "languages", "repetition", "boilerplate", "refusals", "garbled", "min_quality", "min_tokens", "max_tokens")
        MIN_ANSWER_CHARS_FIELD_NUMBER: _ClassVar[int]
        MAX_CHARS_FIELD_NUMBER: _ClassVar[int]
        LANGUAGES_FIELD_NUMBER: _ClassVar[int]
        REPETITION_FIELD_NUMBER: _ClassVar[int]
        BOILERPLATE_FIELD_NUMBER: _ClassVar[int]
        REFUSALS_FIELD_NUMBER: _ClassVar[int]
        GARBLED_FIELD_NUMBER: _ClassVar[int]
        MIN_QUALITY_FIELD_NUMBER: _ClassVar[int]
        MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
        MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
        min_answer_chars: int
        max_chars: int
        languages: _containers.RepeatedScalarFieldContainer[str]
        repetition: bool
        boilerplate: bool
        refusals: bool
        garbled: bool
        min_quality: float
        min_tokens: int
        max_tokens: int
        def __init__(self, min_answer_chars: _Optional[int] = ..., max_chars: _Optional[int] = ..., languages: _Optional[_Iterable[str]] = ..., repetition: _Optional[bool] = ..., boilerplate: _Optional[bool] = ..., refusals: _Optional[bool] = ..., garbled: _Optional[bool] = ..., min_quality: _Optional[float] = ..., min_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ...) -> None: ...
    class Pii(_message.Message):
        __slots__ = ("emails", "phones", "cards", "ibans", "national_ids", "secrets")
        EMAILS_FIELD_NUMBER: _ClassVar[int]
        PHONES_FIELD_NUMBER: _ClassVar[int]
        CARDS_FIELD_NUMBER: _ClassVar[int]
        IBANS_FIELD_NUMBER: _ClassVar[int]
        NATIONAL_IDS_FIELD_NUMBER: _ClassVar[int]
        SECRETS_FIELD_NUMBER: _ClassVar[int]
        emails: str
        phones: str
        cards: str
        ibans: str
        national_ids: str
        secrets: str
        def __init__(self, emails: _Optional[str] = ..., phones: _Optional[str] = ..., cards: _Optional[str] = ..., ibans: _Optional[str] = ..., national_ids: _Optional[str] = ..., secrets: _Optional[str] = ...) -> None: ...
    class Duplicates(_message.Message):
        __slots__ = ("exact", "near", "threshold", "permutations", "shingle")
        EXACT_FIELD_NUMBER: _ClassVar[int]
        NEAR_FIELD_NUMBER: _ClassVar[int]
        THRESHOLD_FIELD_NUMBER: _ClassVar[int]
        PERMUTATIONS_FIELD_NUMBER: _ClassVar[int]
        SHINGLE_FIELD_NUMBER: _ClassVar[int]
        exact: bool
        near: bool
        threshold: float
        permutations: int
        shingle: int
        def __init__(self, exact: _Optional[bool] = ..., near: _Optional[bool] = ..., threshold: _Optional[float] = ..., permutations: _Optional[int] = ..., shingle: _Optional[int] = ...) -> None: ...
    class Conflicts(_message.Message):
        __slots__ = ("action",)
        ACTION_FIELD_NUMBER: _ClassVar[int]
        action: str
        def __init__(self, action: _Optional[str] = ...) -> None: ...
    class Semantic(_message.Message):
        __slots__ = ("model", "threshold", "digest")
        MODEL_FIELD_NUMBER: _ClassVar[int]
        THRESHOLD_FIELD_NUMBER: _ClassVar[int]
        DIGEST_FIELD_NUMBER: _ClassVar[int]
        model: str
        threshold: float
        digest: str
        def __init__(self, model: _Optional[str] = ..., threshold: _Optional[float] = ..., digest: _Optional[str] = ...) -> None: ...
    class Contamination(_message.Message):
        __slots__ = ("action", "ngram", "min_overlap")
        ACTION_FIELD_NUMBER: _ClassVar[int]
        NGRAM_FIELD_NUMBER: _ClassVar[int]
        MIN_OVERLAP_FIELD_NUMBER: _ClassVar[int]
        action: str
        ngram: int
        min_overlap: float
        def __init__(self, action: _Optional[str] = ..., ngram: _Optional[int] = ..., min_overlap: _Optional[float] = ...) -> None: ...
    class Split(_message.Message):
        __slots__ = ("validation_fraction", "by", "stratify_by")
        VALIDATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
        BY_FIELD_NUMBER: _ClassVar[int]
        STRATIFY_BY_FIELD_NUMBER: _ClassVar[int]
        validation_fraction: float
        by: str
        stratify_by: str
        def __init__(self, validation_fraction: _Optional[float] = ..., by: _Optional[str] = ..., stratify_by: _Optional[str] = ...) -> None: ...
    class Mixing(_message.Message):
        __slots__ = ("total_rows", "max_repeats")
        TOTAL_ROWS_FIELD_NUMBER: _ClassVar[int]
        MAX_REPEATS_FIELD_NUMBER: _ClassVar[int]
        total_rows: int
        max_repeats: int
        def __init__(self, total_rows: _Optional[int] = ..., max_repeats: _Optional[int] = ...) -> None: ...
    class Audit(_message.Message):
        __slots__ = ("template", "max_length")
        TEMPLATE_FIELD_NUMBER: _ClassVar[int]
        MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
        template: bool
        max_length: int
        def __init__(self, template: _Optional[bool] = ..., max_length: _Optional[int] = ...) -> None: ...
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
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    MIXING_FIELD_NUMBER: _ClassVar[int]
    CONTAMINATION_FIELD_NUMBER: _ClassVar[int]
    SEMANTIC_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    LAUNCHER_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
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
    split: DataprepSpec.Split
    mixing: DataprepSpec.Mixing
    contamination: DataprepSpec.Contamination
    semantic: DataprepSpec.Semantic
    audit: DataprepSpec.Audit
    launcher: str
    workers: int
    def __init__(self, format: _Optional[str] = ..., system_prompt: _Optional[str] = ..., seed: _Optional[int] = ..., max_invalid_fraction: _Optional[float] = ..., sources: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., reading: _Optional[_Union[DataprepSpec.Reading, _Mapping]] = ..., cleaning: _Optional[_Union[DataprepSpec.Cleaning, _Mapping]] = ..., filters: _Optional[_Union[DataprepSpec.Filters, _Mapping]] = ..., pii: _Optional[_Union[DataprepSpec.Pii, _Mapping]] = ..., duplicates: _Optional[_Union[DataprepSpec.Duplicates, _Mapping]] = ..., conflicts: _Optional[_Union[DataprepSpec.Conflicts, _Mapping]] = ..., split: _Optional[_Union[DataprepSpec.Split, _Mapping]] = ..., mixing: _Optional[_Union[DataprepSpec.Mixing, _Mapping]] = ..., contamination: _Optional[_Union[DataprepSpec.Contamination, _Mapping]] = ..., semantic: _Optional[_Union[DataprepSpec.Semantic, _Mapping]] = ..., audit: _Optional[_Union[DataprepSpec.Audit, _Mapping]] = ..., launcher: _Optional[str] = ..., workers: _Optional[int] = ...) -> None: ...

class DataSource(_message.Message):
    __slots__ = ("name", "weight", "use", "format", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    use: str
    format: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., use: _Optional[str] = ..., format: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class SubmitDataprepRequest(_message.Message):
    __slots__ = ("spec", "uploads", "validate_only", "base")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    spec: DataprepSpec
    uploads: _containers.RepeatedCompositeFieldContainer[_artifact_pb2.ArtifactRef]
    validate_only: bool
    base: _artifact_pb2.ArtifactRef
    def __init__(self, spec: _Optional[_Union[DataprepSpec, _Mapping]] = ..., uploads: _Optional[_Iterable[_Union[_artifact_pb2.ArtifactRef, _Mapping]]] = ..., validate_only: _Optional[bool] = ..., base: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ...) -> None: ...

class SubmitDataprepResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...
