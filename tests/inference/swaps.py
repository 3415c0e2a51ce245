"""Adapters that come and go under load: who asked whom, and whether the secret that came back was the right one.

Shared by the test and by `bench/adapter_swaps.py`, which makes the whole count of swaps.
"""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from tests.inference.secret_adapters import LETTERS, QUESTION
from tests.inference.service_process import ServiceProcess, engine_client
from tunewright.artifacts import ArtifactRef
from tunewright.v1 import inference_pb2

SPEC = {"max_loras": 2, "max_cpu_loras": 4}
"""Fewer slots than adapters, so that they push each other out."""


@dataclass
class Outcome:
    """What became of the questions."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)
    swap_seconds: list[float] = field(default_factory=list)
    """From the call to deploy to READY."""
    first_token_seconds: list[float] = field(default_factory=list)
    """From the call to deploy to the first token of an answer to the adapter's own question."""


def ask(client: httpx.Client, served_name: str) -> str:
    """Return what an adapter says to the question. Raises httpx.HTTPStatusError."""
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": served_name, "messages": messages, "max_tokens": LETTERS + 1, "temperature": 0}
    answer = client.post("/chat/completions", json=body)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


def swap_under_load(
    service: ServiceProcess,
    base: ArtifactRef,
    adapters: Sequence[tuple[ArtifactRef, str]],
    *,
    swaps: int,
    live: int = 4,
    askers: int = 6,
) -> Outcome:
    """Keep `live` adapters deployed, replace the oldest by another one `swaps` times, while `askers` threads ask them.

    Args:
        service: where they are deployed.
        base: what they were trained on.
        adapters: artifacts with their secrets; used again and again, each time under a new name.
        swaps: how often one comes and one goes.
        live: adapters that are asked at once.
        askers: threads that ask.
    """
    outcome, lock, done = Outcome(), threading.Lock(), threading.Event()
    serving: list[tuple[inference_pb2.Deployment, str]] = []

    def deploy(number: int) -> None:
        ref, secret = adapters[number % len(adapters)]
        began = time.monotonic()
        service.deploy(f"swap-{number}", base, ref, **SPEC)
        ready = service.wait(f"swap-{number}", "READY")
        outcome.swap_seconds.append(time.monotonic() - began)
        with engine_client(ready) as client:
            assert ask(client, ready.served_model_name) == secret
        outcome.first_token_seconds.append(time.monotonic() - began)
        with lock:
            serving.append((ready, secret))

    def asker(seed: int) -> None:
        rng = random.Random(seed)  # noqa: S311 - picks who is asked
        with engine_client(serving[0][0]) as client:
            while not done.is_set():
                with lock:
                    deployment, secret = rng.choice(serving)
                try:
                    said = ask(client, deployment.served_model_name)
                except httpx.HTTPError as error:
                    outcome.failed.append(f"{deployment.served_model_name}: {error}")
                    continue
                outcome.answered += 1  # one bytecode too many to be exact among threads; the lists are what counts
                if said != secret:
                    outcome.mixed_up.append(f"{deployment.served_model_name} said {said!r}, not {secret!r}")

    for number in range(live):
        deploy(number)
    del outcome.swap_seconds[:], outcome.first_token_seconds[:]
    with ThreadPoolExecutor(askers) as pool:
        running = [pool.submit(asker, seed) for seed in range(askers)]
        try:
            for number in range(live, live + swaps):
                deploy(number)
                with lock:
                    gone, _ = serving.pop(0)
                service.undeploy(gone.name)
        finally:
            done.set()
        for future in running:
            future.result()
    for deployment, _ in serving:
        service.undeploy(deployment.name)
    return outcome
