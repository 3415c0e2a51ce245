"""A real vLLM for tests: on a free port, on a leash, with adapters if wanted, gone when the block ends.

Start one a test session: it takes about half a minute on two cores.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tunewright.chassis import leash

KEY = "test-engine-key-of-32-characters"
_START_SECONDS = 240.0
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A running engine."""

    endpoint: str
    """OpenAI-compatible root, ending in /v1."""
    key: str
    log: Path


@contextmanager
def vllm_server(model: Path, folder: Path, *, adapters: Mapping[str, Path] | None = None) -> Iterator[VllmServer]:
    """Serve `model` under the name `base`, and each adapter under its own; the log lies in `folder`.

    Raises:
        RuntimeError: the engine died or did not answer in time; its log's end is in the message.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = VllmServer(f"http://127.0.0.1:{port}/v1", KEY, folder / "vllm.log")
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            leash.command(_command(model, port, adapters or {})),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(folder),
        )
        try:
            _wait(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _command(model: Path, port: int, adapters: Mapping[str, Path]) -> list[str]:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    command += ["--max-model-len", "256", "--max-num-seqs", "8", "--enforce-eager", "--kv-cache-memory-bytes", "64M"]
    if adapters:
        command += ["--enable-lora", "--max-lora-rank", "16", "--lora-modules"]
        command += [f"{name}={path}" for name, path in adapters.items()]
        # Without this vLLM 0.32 wraps lm_head too, and its CPU engine dies at the first request for prompt_logprobs.
        command += ["--lora-target-modules", *_PROJECTIONS]
    return command


def _environment(folder: Path) -> dict[str, str]:
    own = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return {**os.environ, **own, "VLLM_CACHE_ROOT": str(folder / "vllm-cache")}


def _wait(server: VllmServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(server.endpoint.removesuffix("/v1") + "/health", timeout=2).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    tail = server.log.read_text("utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"vLLM did not start: {tail}")
