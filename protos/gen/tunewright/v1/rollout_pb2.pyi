import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from tunewright.v1 import artifact_pb2 as _artifact_pb2
from tunewright.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VersionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERSION_STATE_UNSPECIFIED: _ClassVar[VersionState]
    VERSION_STATE_STARTING: _ClassVar[VersionState]
    VERSION_STATE_STANDBY: _ClassVar[VersionState]
    VERSION_STATE_CANARY: _ClassVar[VersionState]
    VERSION_STATE_SERVING: _ClassVar[VersionState]
    VERSION_STATE_RETIRED: _ClassVar[VersionState]
    VERSION_STATE_ROLLED_BACK: _ClassVar[VersionState]
    VERSION_STATE_FAILED: _ClassVar[VersionState]
VERSION_STATE_UNSPECIFIED: VersionState
VERSION_STATE_STARTING: VersionState
VERSION_STATE_STANDBY: VersionState
VERSION_STATE_CANARY: VersionState
VERSION_STATE_SERVING: VersionState
VERSION_STATE_RETIRED: VersionState
VERSION_STATE_ROLLED_BACK: VersionState
VERSION_STATE_FAILED: VersionState

class Version(_message.Message):
    __slots__ = ("alias", "number", "state", "weight", "deployment", "model", "adapter", "detail", "create_time")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    alias: str
    number: int
    state: VersionState
    weight: float
    deployment: str
    model: _artifact_pb2.ArtifactRef
    adapter: _artifact_pb2.ArtifactRef
    detail: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, alias: _Optional[str] = ..., number: _Optional[int] = ..., state: _Optional[_Union[VersionState, str]] = ..., weight: _Optional[float] = ..., deployment: _Optional[str] = ..., model: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., adapter: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., detail: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("time", "action", "version", "who", "why", "data")
    TIME_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHO_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    action: str
    version: int
    who: str
    why: str
    data: _struct_pb2.Struct
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., action: _Optional[str] = ..., version: _Optional[int] = ..., who: _Optional[str] = ..., why: _Optional[str] = ..., data: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class DeployVersionRequest(_message.Message):
    __slots__ = ("alias", "artifact", "base", "spec", "weight", "rules", "why")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    alias: str
    artifact: _artifact_pb2.ArtifactRef
    base: _artifact_pb2.ArtifactRef
    spec: _inference_pb2.DeploymentSpec
    weight: float
    rules: _struct_pb2.Struct
    why: str
    def __init__(self, alias: _Optional[str] = ..., artifact: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., base: _Optional[_Union[_artifact_pb2.ArtifactRef, _Mapping]] = ..., spec: _Optional[_Union[_inference_pb2.DeploymentSpec, _Mapping]] = ..., weight: _Optional[float] = ..., rules: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., why: _Optional[str] = ...) -> None: ...

class DeployVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class PromoteRequest(_message.Message):
    __slots__ = ("alias", "version", "weight", "why")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    alias: str
    version: int
    weight: float
    why: str
    def __init__(self, alias: _Optional[str] = ..., version: _Optional[int] = ..., weight: _Optional[float] = ..., why: _Optional[str] = ...) -> None: ...

class PromoteResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class RollBackRequest(_message.Message):
    __slots__ = ("alias", "version", "why")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    alias: str
    version: int
    why: str
    def __init__(self, alias: _Optional[str] = ..., version: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class RollBackResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: Version
    def __init__(self, version: _Optional[_Union[Version, _Mapping]] = ...) -> None: ...

class UndeployAliasRequest(_message.Message):
    __slots__ = ("alias", "why")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    alias: str
    why: str
    def __init__(self, alias: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class UndeployAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetAliasRequest(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: str
    def __init__(self, alias: _Optional[str] = ...) -> None: ...

class GetAliasResponse(_message.Message):
    __slots__ = ("versions", "changes")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    def __init__(self, versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ...) -> None: ...
