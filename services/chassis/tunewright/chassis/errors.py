"""The one error tree of Tunewright.

TunewrightError                    code                  retry  reason
├── InvalidSpec                    INVALID_ARGUMENT             INVALID_SPEC
├── InvalidData                    INVALID_ARGUMENT             INVALID_DATA
├── NotFound                       NOT_FOUND                    NOT_FOUND
├── Conflict                       FAILED_PRECONDITION          CONFLICT
├── Refused                        FAILED_PRECONDITION          REFUSED
├── Unauthenticated                UNAUTHENTICATED              UNAUTHENTICATED
├── OutOfResources                 RESOURCE_EXHAUSTED           OUT_OF_RESOURCES
│   └── DiskFull                   RESOURCE_EXHAUSTED           DISK_FULL
├── Unavailable                    UNAVAILABLE           yes    UNAVAILABLE
│   ├── StoreDown                  UNAVAILABLE           yes    STORE_DOWN
│   └── EngineDied                 UNAVAILABLE           yes    ENGINE_DIED
├── Cancelled                      CANCELLED                    CANCELLED
├── Interrupted                    ABORTED               yes    INTERRUPTED
└── Internal                       INTERNAL                     INTERNAL
    └── StageDied                  INTERNAL              yes    STAGE_DIED

Every class carries its gRPC code, whether the same call may succeed when it is tried again, and a remedy in words.
`foreign` maps the errors of libraries to this tree; nobody else does.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
from pydantic import ValidationError

from tunewright import artifacts


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that is wrong, for google.rpc.BadRequest and for the person who wrote it."""

    field: str
    """Path of the field, such as `training.learning_rate`, or `file.jsonl:17:messages[2].role` in data."""
    description: str


class TunewrightError(Exception):
    """Root of the tree."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    default_remedy: ClassVar[str] = "Look at the job's log; if it is not your input, report it with the job id."

    def __init__(self, message: str, *, remedy: str = "", violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or self.default_remedy
        self.violations = tuple(violations)

    def to_dict(self) -> dict[str, Any]:
        """Return what a child process tells its parent; `from_dict` is the inverse."""
        fields = [{"field": v.field, "description": v.description} for v in self.violations]
        return {"reason": self.reason, "message": self.message, "remedy": self.remedy, "violations": fields}


class InvalidSpec(TunewrightError):
    """A setting or a recipe field is wrong."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_SPEC"
    default_remedy = "Correct the fields named and submit again."


class InvalidData(TunewrightError):
    """An input file is wrong: encoding, syntax, fields, emptiness."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_DATA"
    default_remedy = "Correct the rows named and submit again."


class NotFound(TunewrightError):
    """A file, job, model or artifact that does not exist."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"
    default_remedy = "Check the name."


class Conflict(TunewrightError):
    """The thing exists in a state in which the call makes no sense."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "CONFLICT"
    default_remedy = "Look at its state first."


class Refused(TunewrightError):
    """The product declines on purpose: unsafe files, quantised bases, a merge that does not match."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "REFUSED"
    default_remedy = "The message says what would be accepted."


class Unauthenticated(TunewrightError):
    """No key, or a wrong one."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"
    default_remedy = "Send an API key as `Authorization: Bearer …`."


class OutOfResources(TunewrightError):
    """Memory, VRAM or a quota is used up."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OUT_OF_RESOURCES"
    default_remedy = "Lower per_device_train_batch_size or max_length, or free the device."


class DiskFull(OutOfResources):
    """No room left where the stage works."""

    reason = "DISK_FULL"
    default_remedy = "Free space in the service's work directory (TUNEWRIGHT_WORK_DIR) and submit again."


class Unavailable(TunewrightError):
    """Something needed does not answer right now."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"
    retryable = True
    default_remedy = "Try again; if it stays, look whether the service named is up."


class StoreDown(Unavailable):
    """The object store does not answer."""

    reason = "STORE_DOWN"
    default_remedy = "Check that the object store is up and TUNEWRIGHT_STORE_* are right; jobs go on when it is back."


class EngineDied(Unavailable):
    """An inference engine ended by itself, or hung and had to be ended."""

    reason = "ENGINE_DIED"
    default_remedy = "It is started again a bounded number of times; the last lines of its log are in the message."


class Cancelled(TunewrightError):
    """Somebody cancelled it."""

    code = grpc.StatusCode.CANCELLED
    reason = "CANCELLED"
    default_remedy = "Submit again to go on from the newest checkpoint."


class Interrupted(TunewrightError):
    """The stage was stopped by SIGTERM before its end, after saving what it could."""

    code = grpc.StatusCode.ABORTED
    reason = "INTERRUPTED"
    retryable = True
    default_remedy = "It goes on from the newest checkpoint when the service is up again."


class Internal(TunewrightError):
    """A fault of ours."""

    reason = "INTERNAL"


class StageDied(Internal):
    """The stage's process ended without a word: killed, out of memory, crashed in native code."""

    reason = "STAGE_DIED"
    retryable = True
    default_remedy = (
        "Look at the job's log and at the machine's memory; it is started again from the newest checkpoint."
    )


def _classes(root: type[TunewrightError]) -> list[type[TunewrightError]]:
    return [root, *(found for child in root.__subclasses__() for found in _classes(child))]


def from_dict(document: dict[str, Any]) -> TunewrightError:
    """Return the error that `to_dict` wrote; an unknown reason becomes Internal."""
    by_reason = {cls.reason: cls for cls in reversed(_classes(TunewrightError))}
    cls = by_reason.get(document.get("reason", ""), Internal)
    violations = [Violation(v["field"], v["description"]) for v in document.get("violations", ())]
    return cls(document.get("message", "unknown error"), remedy=document.get("remedy", ""), violations=violations)


def foreign(error: BaseException) -> TunewrightError:
    """Return `error` as a member of the tree: itself if it is one, else mapped by its type.

    The caller raises the result `from` the original.
    """
    mapped: TunewrightError
    match error:
        case TunewrightError():
            mapped = error
        case ValidationError():
            mapped = InvalidSpec(_summary(error), violations=pydantic_violations(error))
        case artifacts.StoreUnavailable():
            mapped = StoreDown(str(error))
        case artifacts.ObjectNotFound():
            mapped = NotFound(str(error), remedy="The artifact was never finished or was deleted: run its stage again.")
        case artifacts.IntegrityError():
            mapped = Refused(
                str(error), remedy="The stored bytes are damaged: delete the artifact and run its stage again."
            )
        case artifacts.InvalidRef() | artifacts.UnsafePath():
            mapped = InvalidSpec(str(error))
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            mapped = DiskFull(f"no space left on the device: {error.filename or 'work directory'}")
        case MemoryError():
            mapped = OutOfResources("out of memory")
        case _:
            mapped = Internal(f"{type(error).__name__}: {error}")
    return mapped


def pydantic_violations(error: ValidationError) -> list[Violation]:
    """Return one violation a wrong field, with the value that was found; of a rule between fields, what it says."""
    return [
        Violation(".".join(str(part) for part in item["loc"]), f"{item['msg']} (found {item['input']!r:.80})")
        if item["loc"]
        else Violation("spec", item["msg"])
        for item in error.errors(include_url=False)
    ]


def _summary(error: ValidationError) -> str:
    found = pydantic_violations(error)
    return "; ".join(f"{v.field}: {v.description}" for v in found)
