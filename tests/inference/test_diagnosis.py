"""Why an engine died: words of vLLM, PyTorch and the kernel become members of the error tree."""

import pytest

from tunewright.chassis.errors import EngineDied, OutOfResources, Refused, TunewrightError
from tunewright.inference.diagnosis import diagnose, is_final


@pytest.mark.parametrize(
    ("line", "error", "words", "final"),
    [
        ("OSError: [Errno 98] Address already in use", EngineDied, "port was taken", False),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", OutOfResources, "memory", False),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", OutOfResources, "memory", False),
        (
            "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) is less than desired",
            OutOfResources,
            "memory",
            False,
        ),
        (
            "ValueError: To serve one request (4.00 GiB KV cache is needed, which is larger than the available",
            Refused,
            "key-value cache",
            True,
        ),
        ("safetensors_rust.SafetensorError: Error while deserializing header", Refused, "weights are damaged", True),
        ("OSError: [Errno 28] No space left on device", OutOfResources, "disk", False),
        ("Exception: something nobody foresaw", EngineDied, "ended with status 1", False),
    ],
)
def test_a_known_cause_is_named_and_says_whether_another_try_can_help(
    line: str, error: type[TunewrightError], words: str, *, final: bool
) -> None:
    found = diagnose(1, ["(EngineCore pid=7) INFO loading", f"(EngineCore pid=7) {line}", "(APIServer pid=6) bye"])
    assert type(found) is error
    assert words in found.message
    assert line in found.message, "the log's own words are part of the message"
    assert "pid=" not in found.message
    assert is_final(found) is final


def test_a_signal_is_named() -> None:
    assert "signal 9" in diagnose(137, []).message


def test_a_kill_by_the_kernel_is_told_as_a_want_of_memory() -> None:
    found = diagnose(137, ["last words"], killed_by_kernel=True)
    assert isinstance(found, OutOfResources)
    assert "killed by the kernel" in found.message
