"""The error table: which known trouble an exception is, and what to say of it in English and in Chinese.

Recognised by types where there are any, else by the texts that the libraries really write. Knows no policy
(`remedies.py`) and no run. E10, garbled output after a merge, has no exception: merger and inference compare hashes
and golden answers.
"""

import errno
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import torch
from safetensors import SafetensorError

from tunewright.chassis.errors import DiskFull, Internal, InvalidData, InvalidSpec, OutOfResources, Refused
from tunewright.chassis.errors import TunewrightError as Error
from tunewright.trainer.stability import Unstable


@dataclass(frozen=True, slots=True)
class Trouble:
    """One row of the table. Every text is a pair: English, Chinese."""

    row: str
    """E1 to E9, or the name where the table of requirements has none."""
    name: str
    what: tuple[str, str]
    """What happened."""
    do: tuple[str, str]
    """What the user can do once no remedy is left."""
    error: type[Error]
    """What it becomes for the caller."""
    types: tuple[type[BaseException], ...] = ()
    texts: str = "(?!)"
    """Regular expression over `Type: message`."""


OUT_OF_MEMORY = Trouble(
    "E1", "out_of_memory",
    ("the device ran out of memory", "设备显存或内存不足"),
    ("Lower per_device_train_batch_size or max_length, take method qlora, or a larger device.",
     "请减小 per_device_train_batch_size 或 max_length，改用 qlora，或换更大的设备。"),
    OutOfResources,
    (torch.OutOfMemoryError, MemoryError),
    r"CUDA out of memory|CUDA error: out of memory|CU(BLAS|DNN|SPARSE)_STATUS_ALLOC_FAILED|std::bad_alloc"
    r"|DefaultCPUAllocator: (not enough|can't allocate) memory|Cannot allocate memory",
)  # fmt: skip
BASE = Trouble(
    "E2", "base_does_not_load",
    ("the base model does not load", "基础模型无法加载"),
    ("Import the base again; behind a slow line set HF_ENDPOINT to a mirror. The message names the file or the id.",
     "请重新导入基础模型；网络不畅时将 HF_ENDPOINT 设为镜像地址。报错信息中写明了出错的文件或模型名。"),
    InvalidData,
    (SafetensorError,),
    r"the base does not load|not a local folder and is not a valid model identifier"
    r"|does not appear to have a file named"
    r"|Can't load (the model|the configuration|tokenizer|config) for|size mismatch for |the base has no config\.json",
)  # fmt: skip
KEYWORD = Trouble(
    "E3", "unexpected_keyword",
    ("a library does not know a setting: its version does not fit", "依赖库不认识某个参数：版本不匹配"),
    ("Run `tunewright doctor`: it compares every package with the versions of this release.",
     "请运行 `tunewright doctor`，它会将每个依赖包与本版本要求的版本逐一对比。"),
    Internal,
    (),
    r"TypeError: .*got an unexpected keyword argument",
)  # fmt: skip
ORDINAL = Trouble(
    "E4", "invalid_device",
    ("the GPU asked for does not exist", "指定的 GPU 不存在"),
    ("Correct CUDA_VISIBLE_DEVICES of the trainer; `tunewright doctor` lists the devices.",
     "请更正训练服务的 CUDA_VISIBLE_DEVICES；`tunewright doctor` 会列出可用设备。"),
    Refused,
    (),
    r"invalid device ordinal|[Ii]nvalid device id|No CUDA GPUs are available",
)  # fmt: skip
MODULES = Trouble(
    "E5", "unknown_modules",
    ("a module named in the recipe does not exist in the base", "配方中的模块名在基础模型里不存在"),
    ("Take one of the names listed, or `all-linear`.", "请使用所列的模块名之一，或使用 `all-linear`。"),
    InvalidSpec,
    (),
    r"(target_modules|modules_to_save): no (linear layer|module) is called"
    r"|Target modules? .*not found in the base model",
)  # fmt: skip
NOT_A_NUMBER = Trouble(
    "E6", "not_a_number",
    ("a loss or a gradient is not a number", "损失或梯度变成了 NaN 或无穷大"),
    ("Look at the rows named; lower learning_rate (5e-5) and max_grad_norm (0.5).",
     "请检查所列的数据行，并降低 learning_rate（5e-5）和 max_grad_norm（0.5）。"),
    Refused,
)  # fmt: skip
SPIKE = Trouble(
    "E6", "loss_spike",
    ("the loss jumped far above that of the steps before", "损失突然远高于之前各步"),
    NOT_A_NUMBER.do,
    Refused,
)  # fmt: skip
ENCODING = Trouble(
    "E7", "wrong_encoding",
    ("a file is not UTF-8", "文件不是 UTF-8 编码"),
    ("Prepare the raw files again: data preparation finds the encoding and converts.",
     "请重新准备原始文件：数据准备会自动识别编码并转换。"),
    InvalidData,
    (UnicodeDecodeError,),
    r"codec can't decode byte",
)  # fmt: skip
FORMAT = Trouble(
    "E8", "wrong_format",
    ("the rows do not have the form that the objective reads", "数据行的格式与训练目标不符"),
    ("Set training.objective to what the rows are, or prepare the data in another format.",
     "请将 training.objective 设为与数据一致的目标，或用其他格式重新准备数据。"),
    InvalidData,
    (),
    r"KeyError: '(input_ids|labels|messages|text|chosen|rejected|prompt)'|this row is one for (sft|cpt|dpo)",
)  # fmt: skip
DEVICES = Trouble(
    "E9", "different_devices",
    ("parts of the model lie on different devices", "模型的各部分位于不同的设备上"),
    ("Report it with the job id: the trainer puts the whole model on one device.",
     "请附上任务编号反馈：训练器应把整个模型放在同一设备上。"),
    Internal,
    (),
    r"Expected all tensors to be on the same device|is on \S+, different from other tensors on"
    r"|should be either on \S+ or on the same device|Tensor on device \S+ is not on the expected device",
)  # fmt: skip
DISK = Trouble(
    "disk", "disk_full",
    ("no space is left on the disk", "磁盘空间不足"),
    ("Free space in the trainer's TUNEWRIGHT_WORK_DIR and submit again; it goes on from the newest checkpoint.",
     "请清理训练服务的工作目录（TUNEWRIGHT_WORK_DIR）后重新提交；训练会从最新的检查点继续。"),
    DiskFull,
    (),
    r"No space left on device|Disk quota exceeded|StorageFull",
)  # fmt: skip
LOADER = Trouble(
    "loader", "data_loader_killed",
    ("a process that loads rows was killed", "数据加载进程被杀死"),
    ("Look at the memory of the machine and at /dev/shm.", "请检查机器内存和 /dev/shm 的大小。"),
    OutOfResources,
    (),
    r"DataLoader worker \(pid\(?s?\)? .*(killed by signal|exited unexpectedly)",
)  # fmt: skip
TABLE = (
    DISK, LOADER, OUT_OF_MEMORY, KEYWORD, ORDINAL, MODULES, ENCODING, FORMAT, DEVICES, BASE, NOT_A_NUMBER, SPIKE,
)  # fmt: skip


def recognise(error: BaseException) -> Trouble | None:
    """Return the trouble that `error`, or what caused it, is; None if the table does not know it."""
    for cause in _causes(error):
        if isinstance(cause, Unstable):
            return NOT_A_NUMBER if cause.kind == "not_a_number" else SPIKE
        if isinstance(cause, OSError) and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
            return DISK
        text = f"{type(cause).__name__}: {cause}"
        for trouble in TABLE:
            if isinstance(cause, trouble.types) and not (trouble is BASE and _is_disk(text)):
                return trouble
            if re.search(trouble.texts, text, re.DOTALL):
                return trouble
    return None


def explain(error: BaseException, trouble: Trouble) -> Error:
    """Return the error that the caller gets, in both languages; one of the tree keeps its class and its fields."""
    specific = _specific(error, trouble)
    message = str(error) if isinstance(error, Error) else f"{trouble.what[0]}{specific}: {error}"
    remedy = error.remedy if isinstance(error, Error) and error.remedy != error.default_remedy else trouble.do[0]
    cls = type(error) if isinstance(error, Error) else trouble.error
    violations = error.violations if isinstance(error, Error) else ()
    return cls(
        f"{trouble.row}: {message}", remedy=f"{remedy} {trouble.what[1]}。{trouble.do[1]}", violations=violations
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _is_disk(text: str) -> bool:
    """Safetensors wraps a full disk into its own error, which else would be a base that does not load."""
    return bool(re.search(DISK.texts, text))


def _specific(error: BaseException, trouble: Trouble) -> str:
    """Return what can be found out about the very case, in brackets."""
    if trouble is KEYWORD:
        return _whose_keyword(str(error))
    if trouble is ORDINAL:
        count = torch.cuda.device_count()
        names = ", ".join(f"{index}: {torch.cuda.get_device_name(index)}" for index in range(count))
        return f" (visible devices: {names or 'none'})"
    return ""


def _whose_keyword(text: str) -> str:
    """Name the package whose function refused a keyword: the one that has it under that name."""
    name = re.split(r"[.(]", text, maxsplit=1)[0]
    for package in ("trl", "peft", "transformers", "bitsandbytes", "accelerate", "datasets"):
        if package in sys.modules and hasattr(sys.modules[package], name):
            return f" ({package} {metadata.version(package)})"
    return ""
