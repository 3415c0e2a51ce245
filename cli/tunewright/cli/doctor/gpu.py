"""What the driver and torch say of the accelerators.

Both are asked in processes of their own: a broken driver or an import that crashes must not end the doctor. Standard
library only; knows nothing of verdicts.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass

SMI_TIMEOUT_SECONDS = 20
TORCH_TIMEOUT_SECONDS = 120
MIB = 1024**2

_SMI_FIELDS = ("name", "compute_cap", "memory.total", "memory.free", "driver_version")

_TORCH_PROGRAM = """
import json, torch
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": []}
for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    with torch.cuda.device(index):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    facts["devices"].append({"name": properties.name, "capability": f"{properties.major}.{properties.minor}",
        "total_bytes": properties.total_memory, "free_bytes": free, "bf16": bf16})
print(json.dumps(facts))
"""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One accelerator, as the driver sees it."""

    name: str
    compute_capability: str
    total_bytes: int
    free_bytes: int
    driver: str

    @property
    def bf16(self) -> bool:
        """Return True if bf16 is native: compute capability 8.0 (Ampere) and up."""
        major = self.compute_capability.partition(".")[0]
        return major.isdigit() and int(major) >= 8  # noqa: PLR2004 - Ampere


@dataclass(frozen=True, kw_only=True)
class DriverFacts:
    """What nvidia-smi says."""

    gpus: tuple[Gpu, ...] = ()
    cuda: str = ""
    """Newest CUDA version that the driver can run."""
    problem: str = ""
    """Why nothing is known although a driver is there; empty without one."""


@dataclass(frozen=True, kw_only=True)
class TorchFacts:
    """What torch says."""

    version: str = ""
    cuda: str = ""
    """CUDA version it was built for; empty in a CPU build."""
    devices: int = 0
    bf16: bool = False
    problem: str = ""
    """Why it cannot be used."""


def driver_facts() -> DriverFacts:
    """Return what nvidia-smi says; nothing at all where it is not installed."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = _run(query, SMI_TIMEOUT_SECONDS)
        banner = _run(["nvidia-smi"], SMI_TIMEOUT_SECONDS)
    except FileNotFoundError:
        return DriverFacts()
    except subprocess.TimeoutExpired:
        return DriverFacts(problem=f"nvidia-smi did not answer within {SMI_TIMEOUT_SECONDS} s")
    if answer.returncode:
        return DriverFacts(problem=(answer.stdout or answer.stderr).strip().splitlines()[0])
    cuda = re.search(r"CUDA(?: UMD)? Version:\s*([\d.]+)", banner.stdout)
    return DriverFacts(gpus=parse_smi(answer.stdout), cuda=cuda.group(1) if cuda else "")


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs in nvidia-smi's CSV (fields as asked, memory in MiB); lines without figures are left out."""
    gpus = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == len(_SMI_FIELDS) and parts[2].isdigit() and parts[3].isdigit():
            total, free = int(parts[2]) * MIB, int(parts[3]) * MIB
            found = Gpu(name=parts[0], compute_capability=parts[1], total_bytes=total, free_bytes=free, driver=parts[4])
            gpus.append(found)
    return tuple(gpus)


def torch_facts() -> TorchFacts:
    """Return what torch says, from a process of its own."""
    try:
        answer = _run([sys.executable, "-c", _TORCH_PROGRAM], TORCH_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return TorchFacts(problem=f"`import torch` did not end within {TORCH_TIMEOUT_SECONDS} s")
    if answer.returncode:
        last = answer.stderr.strip().splitlines()
        return TorchFacts(problem=last[-1] if last else f"`import torch` ended with exit code {answer.returncode}")
    facts = json.loads(answer.stdout.strip().splitlines()[-1])
    devices = facts["devices"]
    bf16 = bool(devices) and all(device["bf16"] for device in devices)
    return TorchFacts(version=facts["version"], cuda=facts["cuda"] or "", devices=len(devices), bf16=bf16)


def _run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
