"""The doctor's values against the machine itself."""

import json
import os
import shutil
from importlib import metadata
from pathlib import Path

from tunewright.cli.doctor import checks, report
from tunewright.cli.doctor.checks import GIB, Row, Verdict
from tunewright.cli.doctor.gpu import DriverFacts, Gpu, TorchFacts, parse_smi
from tunewright.cli.doctor.make_matrix import TARGET, matrix

REPOSITORY = Path(__file__).parents[2]


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.check: row for row in rows}


def test_memory_disk_and_cores_are_those_of_this_machine(tmp_path: Path) -> None:
    rows = by_name(list(checks.machine_rows(tmp_path)))
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert f"{int(total.split()[1]) / 1024**2:.1f} GiB, " in rows["RAM"].found
    assert f"of {shutil.disk_usage(tmp_path).total / GIB:.1f} GiB" in rows["Disk"].found
    assert f"{os.cpu_count()} cores" in rows["CPU"].found
    assert rows["Python"].verdict is Verdict.OK


def test_the_matrix_is_that_of_the_locks() -> None:
    assert json.loads(TARGET.read_text()) == matrix(REPOSITORY / "requirements")


def test_installed_versions_are_those_of_the_environment() -> None:
    rows = by_name(list(checks.package_rows(checks.supported_versions("cpu"), TorchFacts())))
    assert rows["transformers"].found == metadata.version("transformers")
    assert rows["torch"].found == metadata.version("torch").partition("+")[0]


def test_a_wrong_version_and_a_missing_package_are_failures_with_the_command_that_repairs_them() -> None:
    supported = {"httpx": "0.0.1", "peft": "0.0.1", "no-such-package-of-ours": "1.0"}
    rows = by_name(list(checks.package_rows(supported, TorchFacts())))
    assert rows["peft"].verdict is Verdict.FAILURE, "a package that stages call"
    assert rows["peft"].remedy == "pip install --no-deps peft==0.0.1"
    assert rows["httpx"].verdict is Verdict.WARNING
    assert rows["no-such-package-of-ours"].found == "missing"
    assert not report.Report({"packages": list(rows.values())}).fit


def test_what_nvidia_smi_says_is_read_to_the_last_field() -> None:
    # As an H100 machine with driver 580 printed it.
    (gpu,) = parse_smi("NVIDIA H100 80GB HBM3, 9.0, 81559, 81079, 580.159.04\n")
    assert gpu == Gpu(
        name="NVIDIA H100 80GB HBM3",
        compute_capability="9.0",
        total_bytes=85520809984,
        free_bytes=85017493504,
        driver="580.159.04",
    )
    assert gpu.bf16
    assert parse_smi("NVIDIA GB10, 12.1, [N/A], [N/A], 580.1\n") == ()


def gpu(gigabytes: float, capability: str = "8.6") -> Gpu:
    total = int(gigabytes * GIB)
    return Gpu(name="a GPU", compute_capability=capability, total_bytes=total, free_bytes=total, driver="580.1")


def test_under_8_gib_of_vram_the_doctor_warns_and_says_what_fits() -> None:
    torch = TorchFacts(version="2.11.0", cuda="13.0", devices=1, bf16=True)
    rows = by_name(list(checks.gpu_rows(DriverFacts(gpus=(gpu(6),), cuda="13.0"), torch)))
    assert rows["GPU 0"].verdict is Verdict.WARNING
    assert "up to about 7B" in rows["GPU 0"].remedy
    rows = by_name(list(checks.gpu_rows(DriverFacts(gpus=(gpu(24),), cuda="13.0"), torch)))
    assert rows["GPU 0"].verdict is Verdict.OK
    assert checks.what_fits(4 * GIB) == "models up to about 3B fit by QLoRA with rows of 512 tokens, one a step"
    assert checks.what_fits(1 * GIB) == "too little even for a 0.5B model by QLoRA; train on the CPU"


def test_a_cpu_build_of_torch_beside_a_gpu_is_named_as_the_cause() -> None:
    cpu_build = TorchFacts(version="2.13.0")
    rows = by_name(list(checks.gpu_rows(DriverFacts(gpus=(gpu(24, "7.5"),), cuda="12.4"), cpu_build)))
    assert rows["CUDA"].verdict is Verdict.WARNING
    assert "requirements/gpu.txt" in rows["CUDA"].remedy
    assert "fp16" in rows["bf16"].found, "compute capability 7.5 has no bf16"


def test_a_gateway_that_does_not_answer_makes_the_machine_unfit() -> None:
    rows = by_name(list(checks.service_rows(None, "http://127.0.0.1:9")))
    assert rows["gateway"].verdict is Verdict.FAILURE
    assert rows["object store"].verdict is Verdict.NOTE, "none is configured, so none is missed"


def test_without_torch_the_doctor_still_ends_with_a_verdict() -> None:
    broken = TorchFacts(problem="ImportError: libcudart.so.13: cannot open shared object file")
    rows = by_name(list(checks.package_rows({}, broken)))
    assert rows["torch"].verdict is Verdict.FAILURE
    assert "libcudart" in rows["torch"].found
