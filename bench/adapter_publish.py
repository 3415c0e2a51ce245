"""From "published" to the first token: an adapter in the store, asked for by the gateway's HTTP, answering through it.

    python -m bench.adapter_publish [--count 20] [--out FILE]

Each is a new version of one public name on a running vLLM with the tiny model; nobody else asks. The clock runs from
the POST that files the version to the first piece of a streamed answer that holds a letter of the new adapter's own
secret; fetching, verifying, loading and proving lie in between. Prints one JSON line.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.adapter_swaps import made, spread
from tests.gateway.processes import Gateway, Process
from tests.inference.secret_adapters import QUESTION
from tests.inference.service_process import KEY, SPEC, ServiceProcess
from tests.seaweed import seaweedfs
from tunewright.artifacts import ArtifactRef

_ALIAS = "published"


def main() -> int:
    """Publish, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, seaweedfs() as server:
        store = server.settings.store("publish")
        _, adapters = made(store, Path(folder))
        environment = server.settings.environment("publish")
        service = ServiceProcess(Path(folder), environment)
        service.start()
        rooms = {
            name: Process([], {}, Path(folder)) for name in ("dataprep", "trainer", "merger", "evaluator", "inference")
        }
        for room in rooms.values():
            room.addresses = {"grpc": service.addresses["grpc"]}
        gateway = Gateway(rooms, environment, Path(folder) / "gateway", inference_engine_key=KEY)
        gateway.start()
        try:
            seconds = [_publish(gateway, *adapters[n % len(adapters)]) for n in range(arguments.count + 1)]
        finally:
            gateway.kill()
            service.kill()
    result = {
        "benchmark": "adapter_publish",
        "first_with_engine_start_s": round(seconds[0], 1),
        "published_to_first_token_s": spread(seconds[1:]),
        "under_one_second": sum(value < 1 for value in seconds[1:]),
        "count": arguments.count,
        "cpu_cores": os.cpu_count(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
    }
    sys.stdout.write(json.dumps(result) + "\n")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def _publish(gateway: Gateway, adapter: ArtifactRef, secret: str) -> float:
    """Return the seconds until the adapter's own answer begins."""
    body: dict[str, Any] = {"model": _ALIAS, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    body |= {"max_tokens": 1, "temperature": 0}
    with gateway.client() as client:
        client.get("/healthz")  # the connection is open
        began = time.monotonic()
        filed = client.post(f"/v1/aliases/{_ALIAS}/versions", json={"artifact": str(adapter), "spec": SPEC})
        filed.raise_for_status()
        number = filed.json()["version"]
        while client.get(f"/v1/aliases/{_ALIAS}").json()["serving"] != number:
            time.sleep(0.01)
        answer = client.post("/v1/chat/completions", json=body)
        seconds = time.monotonic() - began
    words = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    said = "".join(word["choices"][0]["delta"].get("content") or "" for word in words if word["choices"])
    if said != secret[0]:
        raise RuntimeError(f"{said!r} is not the first letter of {secret!r}: {answer.text}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
