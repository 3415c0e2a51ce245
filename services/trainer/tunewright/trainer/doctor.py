"""DoctorService: what this machine is, and whether Tunewright fits on it, for those who cannot log in to it.

`tunewright doctor` does the looking, in a process of its own: it asks torch, which a server never imports.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc

from tunewright.chassis.errors import Internal
from tunewright.v1 import doctor_pb2, doctor_pb2_grpc

_SECONDS = 120.0
"""At most: torch is imported, twenty seconds on a busy machine."""
_COMMAND = ("-P", "-m", "tunewright.cli", "doctor", "--json")


class DoctorService(doctor_pb2_grpc.DoctorServiceServicer):
    """Examines the machine anew at each call.

    Args:
        folder: on the disk that the service works on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def Examine(  # noqa: N802 - gRPC's own naming
        self, request: doctor_pb2.ExamineRequest, context: grpc.ServicerContext
    ) -> doctor_pb2.ExamineResponse:
        """Return the findings. Raises Internal if the doctor does not answer."""
        del request, context
        return _response(_report(self._folder))


def _report(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Exit code 1 says that the machine does not fit, which is an answer.
        done = subprocess.run(
            [sys.executable, *_COMMAND], cwd=folder, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        report: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise Internal(f"the doctor did not answer within {_SECONDS:.0f} s") from error
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise Internal(
            f"the doctor gave no report; it said: {last}", remedy="Is the package tunewright-cli here?"
        ) from error
    return report


def _response(report: dict[str, Any]) -> doctor_pb2.ExamineResponse:
    findings = [
        doctor_pb2.Finding(
            section=section,
            check=row["check"],
            found=row["found"],
            verdict=f"VERDICT_{row['verdict'].upper()}",
            remedy=row["remedy"],
            supported=row["supported"],
        )
        for section, rows in report.items()
        if isinstance(rows, list)
        for row in rows
    ]
    return doctor_pb2.ExamineResponse(fit=report["fit"], findings=findings, text=_text(findings, fit=report["fit"]))


def _text(findings: list[doctor_pb2.Finding], *, fit: bool) -> str:
    lines = [
        "  ".join(
            word
            for word in (
                doctor_pb2.Verdict.Name(found.verdict).removeprefix("VERDICT_").lower(),
                found.check,
                found.found,
                found.supported and f"supported {found.supported}",
                found.remedy,
            )
            if word
        )
        for found in findings
    ]
    return "".join(f"{line}\n" for line in [*lines, "Fit." if fit else "Not fit."])
