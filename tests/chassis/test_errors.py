"""One error tree: whole, and the same on both ends of a wire."""

import errno

import grpc
import pytest

from tunewright import artifacts
from tunewright.chassis import errors
from tunewright.chassis.errors import InvalidData, TunewrightError, Violation, foreign, from_dict
from tunewright.chassis.spec import Spec, job_id

EVERY = errors._classes(TunewrightError)


@pytest.mark.parametrize("cls", EVERY, ids=lambda cls: cls.__name__)
def test_every_class_has_a_code_a_reason_a_remedy_and_comes_back_as_itself(cls: type[TunewrightError]) -> None:
    error = cls("what happened", violations=[Violation("a.b", "wrong")])
    assert error.code is not grpc.StatusCode.OK
    assert error.reason == error.reason.upper()
    assert error.remedy
    back = from_dict(error.to_dict())
    assert (back.message, back.remedy, back.violations) == (error.message, error.remedy, error.violations)
    assert back.reason == error.reason
    assert back.retryable == error.retryable


def test_the_tree_in_the_docstring_names_every_class() -> None:
    assert errors.__doc__ is not None
    for cls in EVERY:
        assert f"{cls.__name__} " in errors.__doc__
        assert cls.reason in errors.__doc__ or cls is TunewrightError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (artifacts.StoreUnavailable("down"), "STORE_DOWN"),
        (artifacts.ObjectNotFound("datasets/x"), "NOT_FOUND"),
        (artifacts.IntegrityError("damaged"), "REFUSED"),
        (artifacts.InvalidRef("odd"), "INVALID_SPEC"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "DISK_FULL"),
        (MemoryError(), "OUT_OF_RESOURCES"),
        (ZeroDivisionError("division by zero"), "INTERNAL"),
    ],
)
def test_foreign_errors_are_mapped_by_their_type(error: Exception, reason: str) -> None:
    mapped = foreign(error)
    assert mapped.reason == reason
    assert mapped.remedy


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = InvalidData("x.jsonl:3: no JSON")
    assert foreign(error) is error


class _Spec(Spec):
    learning_rate: float = 1e-4
    lora_r: int = 16


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    with pytest.raises(errors.InvalidSpec, match=r"lerning_rate: unknown name; did you mean 'learning_rate'"):
        _Spec.from_mapping({"lerning_rate": 3})


def test_all_wrong_fields_are_reported_together() -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        _Spec.from_mapping({"lora_r": "many", "learning_rate": float("nan"), "colour": 1})
    assert {violation.field for violation in caught.value.violations} == {"lora_r", "learning_rate", "colour"}


def test_the_job_id_depends_on_every_field_and_input_but_not_on_their_order() -> None:
    one, two = (artifacts.ArtifactRef(artifacts.Kind.DATASET, digit * 64) for digit in "12")
    base = job_id("trainer", _Spec(), {"a": one, "b": two})
    assert base == job_id("trainer", _Spec(), {"b": two, "a": one})
    others = [
        job_id("merger", _Spec(), {"a": one, "b": two}),
        job_id("trainer", _Spec(lora_r=8), {"a": one, "b": two}),
        job_id("trainer", _Spec(), {"a": two, "b": one}),
        job_id("trainer", _Spec(), {"a": one}),
    ]
    assert len({base, *others}) == 5
