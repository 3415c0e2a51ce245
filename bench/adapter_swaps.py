"""200 adapters come and 200 go in one running vLLM while six threads ask: `make bench-adapter-swaps`.

Each adapter of the tiny model says a secret of its own, so that an answer of the wrong one, a stale one from the prefix
cache, and one that failed are all seen. Two slots and four places in memory for 24 adapters: they push each other out.
Prints one JSON line; ends with status 1 if one answer failed or was mixed up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.inference.model_folders import TINY_MODEL
from tests.inference.service_process import ServiceProcess
from tests.inference.swaps import SPEC, Outcome, swap_under_load
from tests.seaweed import seaweedfs
from tunewright.artifacts import ArtifactRef, Kind, Manifest, S3Store, seal
from tunewright.artifacts.transfer import commit

_ADAPTERS = 24
_ROOT = Path(__file__).parents[1]


def main() -> int:
    """Swap, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, seaweedfs() as server:
        bucket = "swaps"
        store = server.settings.store(bucket)
        base, adapters = made(store, Path(folder))
        service = ServiceProcess(Path(folder), server.settings.environment(bucket))
        service.start()
        try:
            began = time.monotonic()
            outcome = swap_under_load(service, base, adapters, swaps=arguments.swaps)
            seconds = time.monotonic() - began
            engines = len(service.engine_processes("VLLM::EngineCore"))
        finally:
            service.kill()
    result = _result(outcome, arguments.swaps, seconds, engines)
    line = json.dumps(result)
    sys.stdout.write(line + "\n")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if outcome.failed or outcome.mixed_up else 0


def made(store: S3Store, folder: Path) -> tuple[ArtifactRef, list[tuple[ArtifactRef, str]]]:
    """Train the adapters and put them and their base into the store; return them with their secrets."""
    target = folder / "secrets"
    command = [sys.executable, "-m", "tests.inference.secret_adapters", str(target), str(_ADAPTERS)]
    subprocess.run(command, check=True, cwd=_ROOT, capture_output=True)
    base = commit(store, seal(Manifest(kind=Kind.MODEL, created_by="bench"), TINY_MODEL, {}), TINY_MODEL)
    secrets = json.loads((target / "secrets.json").read_text())
    found = []
    for number, secret in enumerate(secrets):
        manifest = seal(Manifest(kind=Kind.ADAPTER, created_by="bench"), target / str(number), {"base": base})
        found.append((commit(store, manifest, target / str(number)), secret))
    return base, found


def _result(outcome: Outcome, swaps: int, seconds: float, engines: int) -> dict[str, object]:
    return {
        "benchmark": "adapter_swaps",
        "swaps": swaps,
        "adapters": _ADAPTERS,
        **SPEC,
        "answered": outcome.answered,
        "failed": len(outcome.failed),
        "mixed_up": len(outcome.mixed_up),
        "engines": engines,
        "seconds": round(seconds, 1),
        "deploy_to_ready_s": spread(outcome.swap_seconds),
        "deploy_to_first_answer_s": spread(outcome.first_token_seconds),
        "cpu_cores": os.cpu_count(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "examples": (outcome.failed + outcome.mixed_up)[:5],
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and largest."""
    cuts = statistics.quantiles(values, n=20)
    return {"p50": round(statistics.median(values), 3), "p95": round(cuts[18], 3), "max": round(max(values), 3)}


if __name__ == "__main__":
    sys.exit(main())
