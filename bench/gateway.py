"""The gateway beside the engine it stands before, in one run: throughput, time to the first token, CPU, many streams.

    python -m bench.gateway [--out FILE] [--without-vllm]

Three parts, each printed in one JSON line in the end:

vllm     a real vLLM with the tiny model: 32 streams at once, directly and through the gateway by turns; single streams
         by turns for the time to the first token. CPU seconds of both say what the gateway costs.
proxy    an engine that only streams (`bench/stream_engine.py`): CPU time of the gateway for a request and an event.
streams  1,000 streams held at once for twenty seconds: errors, and the gateway's resident memory.

Ratios are of one run; seconds are those of a machine that others use as well, so the load stands beside them.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil

from tests.gateway.processes import BOOTSTRAP_KEY, Gateway, Process
from tests.inference.model_folders import TINY_MODEL
from tests.seaweed import seaweedfs
from tests.vllm_server import vllm_server
from tunewright.v1 import inference_pb2, inference_pb2_grpc

NAME = "bench-model"
_ROOMS = ("dataprep", "trainer", "merger", "evaluator", "inference")
_CONCURRENCY = 32
_REQUESTS = 128
_TOKENS = 48
_ROUNDS = 3
_SINGLES = 60
_STREAMS = 1000
_HELD_SECONDS = 20


class _Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Says that one deployment answers at a given address."""

    def __init__(self, endpoint: str, served: str) -> None:
        ready = inference_pb2.DEPLOYMENT_STATE_READY
        self._one = inference_pb2.Deployment(name=NAME, state=ready, endpoint=endpoint, served_model_name=served)

    def ListDeployments(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002, N802 - the stub's names
        return inference_pb2.ListDeploymentsResponse(deployments=[self._one])


def _room(endpoint: str, served: str) -> inference_pb2_grpc.InferenceServiceServicer:
    return _Inference(endpoint, served)  # type: ignore[abstract] # the calls that are not made are left out


@contextmanager
def _gateway(store: dict[str, str], folder: Path, endpoint: str, served: str, key: str) -> Iterator[Gateway]:
    """Run a gateway that knows one deployment."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(_room(endpoint, served), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    rooms = {name: Process([], {}, folder) for name in _ROOMS}
    for room in rooms.values():
        room.addresses = {"grpc": f"127.0.0.1:{port}"}
    gateway = Gateway(rooms, store, folder, inference_engine_key=key, log_level="WARNING")
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.kill()
        server.stop(0)


@contextmanager
def _stream_engine() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-m", "bench.stream_engine", str(port)])
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _load(url: str, key: str, model: str, **settings: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    wanted = {"url": f"{url}/chat/completions", "key": key, "model": model, **settings}
    command = [sys.executable, "-m", "bench.stream_load", json.dumps(wanted)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def _cpu(pids: list[int]) -> float:
    """Return the CPU seconds, user and system, that processes and their children have taken."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _with_vllm(store: dict[str, str], folder: Path) -> dict[str, Any]:
    with (
        vllm_server(TINY_MODEL, folder) as engine,
        _gateway(store, folder, engine.endpoint, "base", engine.key) as gate,
    ):
        engine_pid = next(p.pid for p in psutil.process_iter(["cmdline"]) if _is_engine(p, engine.endpoint))
        targets = {
            "direct": (engine.endpoint, engine.key, "base"),
            "gateway": (f"{gate.url}/v1", BOOTSTRAP_KEY, NAME),
        }
        extra = {"ignore_eos": True}
        for url, key, model in targets.values():
            _load(url, key, model, requests=8, concurrency=8, max_tokens=8, extra=extra)
        rates: dict[str, list[float]] = {name: [] for name in targets}
        cpu = {"gateway": 0.0, "engine_direct": 0.0, "engine_gateway": 0.0}
        errors = 0
        for number in range(_ROUNDS):
            for name in sorted(targets, reverse=bool(number % 2)):
                before = _cpu([gate.pid]), _cpu([engine_pid])
                found = _load(
                    *targets[name], requests=_REQUESTS, concurrency=_CONCURRENCY, max_tokens=_TOKENS, extra=extra
                )
                errors += found["errors"]
                rates[name].append(found["done"] * _TOKENS / found["seconds"])
                cpu["gateway"] += _cpu([gate.pid]) - before[0] if name == "gateway" else 0.0
                cpu[f"engine_{name}"] += _cpu([engine_pid]) - before[1]
        first = _first_token(targets)
    direct, through = (statistics.median(rates[name]) for name in ("direct", "gateway"))
    return {
        "direct_tokens_per_s": round(direct, 1),
        "gateway_tokens_per_s": round(through, 1),
        "throughput_ratio": round(through / direct, 4),
        "rates": {name: [round(rate, 1) for rate in found] for name, found in rates.items()},
        "errors": errors,
        "gateway_cpu_s": round(cpu["gateway"], 2),
        "engine_cpu_s_direct": round(cpu["engine_direct"], 2),
        "engine_cpu_s_through_gateway": round(cpu["engine_gateway"], 2),
        "gateway_cpu_share": round(cpu["gateway"] / (cpu["gateway"] + cpu["engine_gateway"]), 4),
        **first,
    }


def _first_token(targets: dict[str, tuple[str, str, str]]) -> dict[str, Any]:
    """Ask single streams by turns, ten at a time; return the medians of the times to the first event."""
    times: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(_SINGLES // 10):
        for name, target in targets.items():
            found = _load(*target, requests=11, concurrency=1, max_tokens=4, extra={"ignore_eos": True})
            times[name] += found["first_ms"][1:]
    direct, through = statistics.median(times["direct"]), statistics.median(times["gateway"])
    return {
        "direct_first_token_p50_ms": round(direct, 2),
        "gateway_first_token_p50_ms": round(through, 2),
        "added_first_token_p50_ms": round(through - direct, 2),
    }


def _is_engine(process: psutil.Process, endpoint: str) -> bool:
    words = process.info["cmdline"] or []
    port = endpoint.rsplit(":", 1)[1].partition("/")[0]
    return "tunewright.chassis.leash" in words and port in words


def _proxy(store: dict[str, str], folder: Path) -> dict[str, Any]:
    with _stream_engine() as port:
        endpoint = f"http://127.0.0.1:{port}/v1"
        with _gateway(store, folder, endpoint, NAME, "x" * 16) as gate:
            target = (f"{gate.url}/v1", BOOTSTRAP_KEY, NAME)
            _load(*target, requests=50, concurrency=8, max_tokens=4)
            costs = {}
            for tokens in (1, 101):
                before = _cpu([gate.pid])
                found = _load(*target, requests=300, concurrency=8, max_tokens=tokens, extra={"gap": 0.001})
                costs[tokens] = (_cpu([gate.pid]) - before) / found["done"]
            event = (costs[101] - costs[1]) / 100
            first = _first_token({"direct": (endpoint, "x", NAME), "gateway": target})
            streams = _streams(gate, target)
    return {
        "cpu_ms_per_request": round((costs[1] - event) * 1000, 3),
        "cpu_us_per_event": round(event * 1e6, 1),
        **first,
        **streams,
    }


def _streams(gate: Gateway, target: tuple[str, str, str]) -> dict[str, Any]:
    process = psutil.Process(gate.pid)
    idle = process.memory_info().rss
    settings: dict[str, Any] = {
        "requests": _STREAMS,
        "concurrency": _STREAMS,
        "max_tokens": _HELD_SECONDS,
        "extra": {"gap": 1.0},
    }
    with futures.ThreadPoolExecutor(1) as pool:
        running, peak = pool.submit(_load, *target, **settings), idle
        while not running.done():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.1)
    found = running.result()
    return {
        "streams": _STREAMS,
        "streams_open_at_once": found["most_open"],
        "streams_done": found["done"],
        "streams_errors": found["errors"],
        "streams_seconds": round(found["seconds"], 1),
        "gateway_rss_idle_mb": round(idle / 1e6, 1),
        "gateway_rss_peak_mb": round(peak / 1e6, 1),
    }


def main() -> int:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the result")
    parser.add_argument("--without-vllm", action="store_true", help="only the gateway's own cost and the streams")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "gateway", "cpu_cores": os.cpu_count(), "concurrency": _CONCURRENCY}
    result["load_average_before"] = [round(value, 1) for value in os.getloadavg()]
    with tempfile.TemporaryDirectory() as folder, seaweedfs() as server:
        server.settings.store("bench")
        store = server.settings.environment("bench")
        (Path(folder) / "proxy").mkdir()
        (Path(folder) / "vllm").mkdir()
        result["proxy"] = _proxy(store, Path(folder) / "proxy")
        if not arguments.without_vllm:
            result["vllm"] = _with_vllm(store, Path(folder) / "vllm")
    sys.stdout.write(json.dumps(result) + "\n")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
