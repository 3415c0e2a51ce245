"""`python -m tunewright.trainer.planning`: a question as JSON on standard input, the plan as JSON on standard output.

    {"training": {…}, "base": FOLDER, "audit": FILE or null, "machine": {"type": "cuda", "name": …, "memory": BYTES,
     "count": GPUS, "host": BYTES}}

An error is one object {"error": …, "remedy": …, "violations": [[field, why]]} and exit code 1.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tunewright.chassis.errors import TunewrightError
from tunewright.trainer.planning.lengths import Lengths
from tunewright.trainer.planning.machine import Machine
from tunewright.trainer.planning.planner import plan, to_document
from tunewright.trainer.planning.shapes import read_shape
from tunewright.trainer.spec import TrainingSpec

_SIDE = 1024
_TIMES = 5


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Return the plan that is asked for.

    Raises:
        TunewrightError: settings, base or audit are wrong.
    """
    spec = TrainingSpec.from_mapping(question["training"])
    shape = read_shape(Path(question["base"]))
    audit = question.get("audit")
    lengths = Lengths.of_audit(Path(audit)) if audit else Lengths.assumed(spec.max_length)
    machine = _machine(question["machine"], spec)
    return to_document(plan(shape, spec, lengths, machine), shape, lengths, machine)


def _machine(found: dict[str, Any], spec: TrainingSpec) -> Machine:
    """Return the machine, with what must be tried out on a CPU: its compute type, and the speed of a product."""
    wanted = spec.bnb_4bit_compute_dtype
    if found["type"] == "cuda":
        each = 4 if wanted == "float32" else 2
        return Machine(
            "cuda", found["name"], found["memory"], each, count=found.get("count", 1), host=found.get("host", 0)
        )
    import torch  # noqa: PLC0415 - two seconds, of which a GPU's plan has no need

    from tunewright.trainer.device import compute_dtype  # noqa: PLC0415

    dtype = compute_dtype(wanted, cuda=False)
    left, right = (torch.ones(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - began)
    return Machine("cpu", found["name"], found["memory"], dtype.itemsize, flops=2 * _SIDE**3 / min(seconds))


def main() -> int:
    """Answer one question."""
    try:
        found = answer(json.load(sys.stdin))
    except TunewrightError as error:
        violations = [[violation.field, violation.description] for violation in error.violations]
        sys.stdout.write(json.dumps({"error": error.message, "remedy": error.remedy, "violations": violations}))
        return 1
    sys.stdout.write(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
