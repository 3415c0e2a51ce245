"""The error table knows real errors: raised here where a CPU can, else as users of GPUs reported them.

Texts of CUDA are those of public reports: pytorch/pytorch#16417, QwenLM/Qwen3#873, chenfei-wu/TaskMatrix#21,
haotian-liu/LLaVA#1081, OPIXray-author/OPIXray#5.
"""

import errno
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, Dataset
from transformers import AutoModelForCausalLM

from tests.trainer.conftest import TINY_MODEL, letters, train, write_dataset
from tests.trainer.reporting import Recorder
from tunewright.chassis.errors import DiskFull, InvalidData, InvalidSpec, TunewrightError
from tunewright.trainer import troubles

REPORTED = {
    "E1 CUDA": (
        "E1",
        "CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23.65 GiB of which 11.06 MiB is free. Including non-PyTorch memory, this process has 23.60 GiB memory in use. Of the allocated memory 22.90 GiB is allocated by PyTorch, and 194.87 MiB is reserved by PyTorch but unallocated.",  # noqa: E501 - as it was written
    ),
    "E1 older CUDA": (
        "E1",
        "CUDA out of memory. Tried to allocate 264.00 MiB (GPU 0; 2.00 GiB total capacity; 788.51 MiB already allocated; 145.93 MiB free; 1.02 GiB reserved in total by PyTorch)",  # noqa: E501 - likewise
    ),
    "E1 cuBLAS": ("E1", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "E4": (
        "E4",
        "CUDA error: invalid device ordinal\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.",  # noqa: E501 - likewise
    ),
    "E9": (
        "E9",
        "Expected all tensors to be on the same device, but found at least two devices, cpu and cuda:0! (when checking argument for argument mat1 in method wrapper_CUDA_addmm)",  # noqa: E501 - likewise
    ),
}


class Suicidal(Dataset[int]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def ask_for_a_petabyte(_: Path) -> None:
    torch.empty(2**50, dtype=torch.uint8)


def load_damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ..."[:9])
    load_file(folder / "model.safetensors")


def give_peft_a_word_it_does_not_know(_: Path) -> None:
    LoraConfig(rank_of_lora=8)  # type: ignore[call-arg]


def name_a_module_that_is_not_there(_: Path) -> None:
    get_peft_model(AutoModelForCausalLM.from_pretrained(TINY_MODEL), LoraConfig(target_modules=["c_attn"]))


def read_another_encoding(folder: Path) -> None:
    (folder / "train.jsonl").write_bytes('{"text": "naïve"}'.encode("latin-1"))
    (folder / "train.jsonl").read_text(encoding="utf-8")


def read_rows_without_token_ids(_: Path) -> None:
    {"text": "raw"}["input_ids"]


def write_to_a_full_disk(_: Path) -> None:
    """Write by hand: safetensors renames a new file over its target, were that the device itself."""
    with Path("/dev/full").open("wb", buffering=0) as file:
        file.write(b"x")


def kill_a_data_loader(_: Path) -> None:
    next(iter(DataLoader(Suicidal(), num_workers=1)))


RAISED: dict[Callable[[Path], None], str] = {
    ask_for_a_petabyte: "E1",
    load_damaged_weights: "E2",
    give_peft_a_word_it_does_not_know: "E3",
    name_a_module_that_is_not_there: "E5",
    read_another_encoding: "E7",
    read_rows_without_token_ids: "E8",
    write_to_a_full_disk: "disk",
    kill_a_data_loader: "loader",
}


@pytest.mark.parametrize("raises", RAISED, ids=lambda raises: raises.__name__)
def test_an_error_raised_for_real_is_recognised_and_explained_in_both_languages(
    raises: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any type: which row it is, is what is tested
        raises(tmp_path)
    trouble = troubles.recognise(caught.value)
    assert trouble is not None
    assert trouble.row == RAISED[raises]
    _in_both_languages(troubles.explain(caught.value, trouble), trouble)


@pytest.mark.parametrize("case", REPORTED)
def test_an_error_of_a_gpu_is_recognised_by_its_text(case: str) -> None:
    row, text = REPORTED[case]
    trouble = troubles.recognise(RuntimeError(text))
    assert trouble is not None
    assert trouble.row == row
    _in_both_languages(troubles.explain(RuntimeError(text), trouble), trouble)


def _in_both_languages(explained: TunewrightError, trouble: troubles.Trouble) -> None:
    assert explained.message.startswith(f"{trouble.row}: ")
    assert trouble.do[0] in explained.remedy
    assert trouble.do[1] in explained.remedy
    assert any("\u4e00" <= letter <= "\u9fff" for letter in explained.remedy)


def test_an_unexpected_keyword_names_the_package_and_its_version() -> None:
    with pytest.raises(TypeError) as caught:
        give_peft_a_word_it_does_not_know(Path())
    assert "(peft 0." in troubles.explain(caught.value, troubles.KEYWORD).message


def test_a_device_that_does_not_exist_is_answered_with_those_that_do() -> None:
    error = RuntimeError(REPORTED["E4"][1])
    assert "visible devices: " in troubles.explain(error, troubles.ORDINAL).message


def test_what_the_table_does_not_know_stays_what_it_is() -> None:
    assert troubles.recognise(RuntimeError("something else")) is None
    assert troubles.recognise(ValueError("key 'text'")) is None


def test_the_cause_of_an_error_is_recognised_behind_it() -> None:
    error = RuntimeError("saving failed")
    error.__cause__ = OSError(errno.ENOSPC, "whatever the system's language says")
    assert troubles.recognise(error) is troubles.DISK


def test_an_unknown_module_in_a_run_lists_the_real_ones_and_the_row_of_the_table(tmp_path: Path) -> None:
    report = Recorder(tmp_path / "checkpoints")
    with pytest.raises(InvalidSpec, match=r"E5: target_modules: no linear layer is called 'c_attn'.*q_proj") as caught:
        train(tmp_path / "run", write_dataset(tmp_path / "d", letters(2)), report=report, target_modules=["c_attn"])
    assert [violation.field for violation in caught.value.violations] == ["target_modules"]
    assert report.of_type("trouble")[0]["row"] == "E5"


def test_rows_for_another_objective_are_the_formats_row_of_the_table(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"E8: .*this row is one for sft"):
        train(tmp_path / "run", write_dataset(tmp_path / "d", letters(2)), objective="dpo")


def test_a_dataset_in_another_encoding_names_line_and_byte(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", letters(1))
    (dataset / "train.jsonl").write_bytes('{"messages": "naïve"}\n'.encode("latin-1"))
    with pytest.raises(InvalidData, match=r"E7: train\.jsonl:1: .*byte 0xef in position 16"):
        train(tmp_path / "run", dataset)


def test_a_disk_that_is_full_for_one_checkpoint_costs_the_older_ones_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = itertools.count(1)

    def fill(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        if next(files) == 8:
            write_to_a_full_disk(path)
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("tunewright.trainer.checkpoints.save_file", fill)
    dataset = write_dataset(tmp_path / "d", letters(8))
    result = train(tmp_path / "run", dataset, max_steps=4, save_steps=1, optim="adamw_torch")
    (remedy,) = result.report.of_type("remedy")
    assert (remedy["row"], remedy["action"]) == ("disk", "disk_full")
    assert result.manifest.metrics["steps"] == 4
    assert len(list(result.report.checkpoints.glob("checkpoint-*"))) == 1


def test_a_disk_that_stays_full_ends_the_run_with_what_to_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        del tensors, metadata
        write_to_a_full_disk(path)

    monkeypatch.setattr("tunewright.trainer.checkpoints.save_file", full)
    with pytest.raises(DiskFull, match="disk: no space is left") as caught:
        train(tmp_path / "run", write_dataset(tmp_path / "d", letters(4)), max_steps=2, save_steps=1)
    assert "TUNEWRIGHT_WORK_DIR" in caught.value.remedy
