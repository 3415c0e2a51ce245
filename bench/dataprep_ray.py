"""`launcher: ray` on a cluster of two raylets on this machine, beside the local launcher: same rows, same bytes, what it costs.

Rows are the documentation of AWS's operations and shapes as it lies in the package botocore (HTML), each once, in two
files. Both run in a process of their own, one after the other, in turns; the cluster runs before its clock starts, with
one processor a node, as the local launcher has two processes. CPU is that of the stage, of its children, and of the
cluster's processes (GCS, raylets, workers), looked at every tenth of a second: the last tenth of one that ends is lost.

What one machine can show is what Ray costs, not what a cluster brings: nothing is faster on the same two cores. Run from the root:
``python -m bench.dataprep_ray [--rows N] [--rounds N] --load "what else ran"``. Prints one JSON line.
"""

# ruff: noqa: E501 - a command

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore  # type: ignore[import-untyped]
import psutil

from bench.dataprep_pipeline import Quiet
from tunewright.dataprep import features, rules
from tunewright.dataprep.pool import processors
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.stage import run

_FILES = ("train.jsonl", "validation.jsonl", "report.json", "report.html")
_NODES = 2
_STORE_BYTES = 200 << 20
_LOOK_SECONDS = 0.1


def write_rows(count: int, folder: Path) -> int:
    """Write rows into two files; return how many there are."""
    found: dict[str, str] = {}
    for path in sorted(Path(botocore.__file__).parent.glob("data/*/*/service-2.json.gz")):
        model = json.loads(gzip.decompress(path.read_bytes()))
        for name, described in (*model["operations"].items(), *model["shapes"].items()):
            if text := described.get("documentation", ""):
                found.setdefault(text, f"What is {name} of {path.parts[-3]}?")
            for member, field in described.get("members", {}).items():
                if text := field.get("documentation", ""):
                    found.setdefault(text, f"What is {member} in {name} of {path.parts[-3]}?")
            if len(found) >= count:
                break
    rows = [{"instruction": asked, "output": text} for text, asked in found.items()][:count]
    for number in range(2):
        lines = (json.dumps(row) + "\n" for row in rows[number::2])
        (folder / f"rows{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(rows)


def child(folder: Path, launcher: str) -> dict[str, Any]:
    """Run the stage by one launcher; return seconds, CPU seconds and a hash of all it wrote."""
    rules.warm()
    features.warm()
    cluster = _cluster() if launcher == "ray" else None
    spec = DataprepSpec.from_mapping({"launcher": launcher, "workers": _NODES})
    with tempfile.TemporaryDirectory() as output:
        begin, watch = time.perf_counter(), _Watch(cluster)
        watch.start()
        manifest = run(spec, {"upload_000": folder}, Path(output), Quiet({"workers": _NODES}))
        seconds, cpu = time.perf_counter() - begin, watch.end()
        digest = hashlib.sha256(b"".join((Path(output) / name).read_bytes() for name in _FILES)).hexdigest()
    if cluster is not None:
        cluster.shutdown()
    own = {"seconds": seconds, "cpu_seconds": cpu, "sha256": digest}
    return {**own, "rows_in": manifest.metrics["rows_in"], "rows_out": manifest.metrics["rows_out"]}


def _cluster() -> Any:  # noqa: ANN401 - Ray ships no types for it
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - only where Ray is asked for

    node = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(_NODES - 1):
        found.add_node(wait=True, **node)
    os.environ["TUNEWRIGHT_RAY_ADDRESS"] = found.address
    return found


class _Watch(threading.Thread):
    """Adds up the CPU seconds of this process and of all that is below it and below the cluster's nodes.

    Looks every tenth of a second, since workers are gone once the stage has left the cluster.
    """

    def __init__(self, cluster: Any) -> None:  # noqa: ANN401 - Ray ships no types for it
        super().__init__(daemon=True)
        nodes = cluster.list_all_nodes() if cluster else ()
        pids = [info.process.pid for node in nodes for infos in node.all_processes.values() for info in infos]
        self._roots = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        self._spent: dict[int, float] = {}
        self._over = threading.Event()
        self._look()
        self._before = sum(self._spent.values())

    def run(self) -> None:
        """Look until the end."""
        while not self._over.wait(_LOOK_SECONDS):
            self._look()

    def end(self) -> float:
        """Return the CPU seconds spent since the beginning."""
        self._look()
        self._over.set()
        self.join()
        return sum(self._spent.values()) - self._before

    def _look(self) -> None:
        own = os.times()
        self._spent[os.getpid()] = own.user + own.system
        for root in (psutil.Process(), *self._roots):
            with contextlib.suppress(psutil.NoSuchProcess):
                below = root.children(recursive=True)
                for process in below if root.pid == os.getpid() else (root, *below):
                    self._note(process)

    def _note(self, process: psutil.Process) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            self._spent[process.pid] = times.user + times.system


def measured(folder: Path, launcher: str) -> dict[str, Any]:
    """Run `child` in a process of its own."""
    command = [sys.executable, "-m", "bench.dataprep_ray", "--child", str(folder), "--launcher", launcher]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", default="not said", help="what else ran on the machine")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--launcher", default="local", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(asked.child, asked.launcher)))
        return
    with tempfile.TemporaryDirectory() as made:
        rows = write_rows(asked.rows, Path(made))
        size = sum(path.stat().st_size for path in Path(made).iterdir())
        runs = [(name, measured(Path(made), name)) for _ in range(asked.rounds) for name in ("local", "ray")]
    by = {name: [found for launcher, found in runs if launcher == name] for name in ("local", "ray")}
    middle = {
        name: {key: round(statistics.median(found[key] for found in own), 2) for key in ("seconds", "cpu_seconds")}
        for name, own in by.items()
    }
    result = {
        "benchmark": "dataprep_ray",
        "rows": rows,
        "mean_bytes": round(size / rows),
        "nodes": _NODES,
        "rounds": asked.rounds,
        **middle,
        "ray_to_local_by_the_clock": round(middle["ray"]["seconds"] / middle["local"]["seconds"], 2),
        "ray_to_local_by_cpu": round(middle["ray"]["cpu_seconds"] / middle["local"]["cpu_seconds"], 2),
        "same_bytes": len({found["sha256"] for _, found in runs}) == 1,
        "rows_out": runs[0][1]["rows_out"],
        "machine": f"{platform.machine()}, {processors()} cores, Python {platform.python_version()}",
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"python -m bench.dataprep_ray --rows {asked.rows} --rounds {asked.rounds}",
        "load": asked.load,
    }
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
