from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_OK: _ClassVar[Verdict]
    VERDICT_NOTE: _ClassVar[Verdict]
    VERDICT_WARNING: _ClassVar[Verdict]
    VERDICT_FAILURE: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_OK: Verdict
VERDICT_NOTE: Verdict
VERDICT_WARNING: Verdict
VERDICT_FAILURE: Verdict

class Finding(_message.Message):
    __slots__ = ("section", "check", "found", "verdict", "remedy", "supported")
    SECTION_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    SUPPORTED_FIELD_NUMBER: _ClassVar[int]
    section: str
    check: str
    found: str
    verdict: Verdict
    remedy: str
    supported: str
    def __init__(self, section: _Optional[str] = ..., check: _Optional[str] = ..., found: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., remedy: _Optional[str] = ..., supported: _Optional[str] = ...) -> None: ...

class ExamineRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExamineResponse(_message.Message):
    __slots__ = ("fit", "findings", "text")
    FIT_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    fit: bool
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    text: str
    def __init__(self, fit: _Optional[bool] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., text: _Optional[str] = ...) -> None: ...
