"""Prometheus metrics of this service: its own, and those of its engines with a `deployment` label. Knows no engine.

vLLM names its metrics `vllm:…`; colons are for recording rules and promtool refuses them, so they become `vllm_…`; for
the same reason a histogram of vLLM's that ends in `_total` loses that ending.
Metrics of the engine's Python process (`python_…`, `process_…`) are left out: they would collide with this process's.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

DEPLOYMENTS = Gauge("tunewright_inference_deployments", "Deployments by state", ["state"])
ENGINE_RESTARTS = Counter(
    "tunewright_inference_engine_restarts_total", "Engines started again after they died or hung", ["deployment"]
)
ENGINE_START_SECONDS = Histogram(
    "tunewright_inference_engine_start_duration_seconds",
    "Time from the start of an engine's process to the answer to its golden prompt",
    buckets=(5, 10, 20, 30, 60, 120, 300, 600, 1800),
)
ENGINE_RSS = Gauge(
    "tunewright_inference_engine_resident_memory_bytes", "Resident memory of an engine's processes", ["deployment"]
)
GOLDEN_AGREEMENT = Gauge(
    "tunewright_inference_golden_agreement_ratio",
    "Share of the trainer's golden tokens that the engine repeats",
    ["deployment"],
)
ADAPTER_LOAD_SECONDS = Histogram(
    "tunewright_inference_adapter_ready_duration_seconds",
    "Time from an adapter's deployment on a running engine to the end of its proof",
    buckets=(0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)
ADAPTERS = Gauge("tunewright_inference_adapters", "Adapters that running engines serve")

_ENGINE_PREFIX = "vllm:"
_log = logging.getLogger(__name__)


def forget(deployment: str) -> None:
    """Drop the series of a deployment that is no more."""
    for metric in (ENGINE_RESTARTS, ENGINE_RSS, GOLDEN_AGREEMENT):
        if (deployment,) in metric._metrics:  # noqa: SLF001 - remove() of an unknown label set raises, there is no has()
            metric.remove(deployment)


class EngineCollector(Collector):
    """Asks all engines for their metrics whenever Prometheus asks this service.

    Args:
        pages: returns deployment → function that returns the engine's page; a page that fails is left out this time.
    """

    def __init__(self, pages: Callable[[], Mapping[str, Callable[[], str]]]) -> None:
        self._pages = pages

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what engines offer is known when they are asked."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the engines' metric families, each once, with samples of all engines."""
        families: dict[str, Metric] = {}
        for deployment, page in self._fetch():
            for family in text_string_to_metric_families(page):
                if family.name.startswith(_ENGINE_PREFIX) and not family.name.endswith("_created"):
                    _add(families, family, deployment)
        yield from families.values()

    def _fetch(self) -> list[tuple[str, str]]:
        pages = self._pages()
        if not pages:
            return []
        with ThreadPoolExecutor(len(pages), thread_name_prefix="scrape") as pool:
            running = {name: pool.submit(page) for name, page in pages.items()}
        found = []
        for name, future in running.items():
            if error := future.exception():
                _log.warning("an engine does not show its metrics", extra={"deployment": name, "error": repr(error)})
            else:
                found.append((name, future.result()))
        return found


def _add(families: dict[str, Metric], family: Metric, deployment: str) -> None:
    name = _renamed(family.name)
    if family.type != "counter":
        name = name.removesuffix("_total")  # vLLM has a histogram that ends so
    target = families.setdefault(name, Metric(name, family.documentation or "vLLM's own", family.type))
    for sample in family.samples:
        suffix = sample.name.removeprefix(family.name)
        if suffix != "_created":
            target.add_sample(name + suffix, {**sample.labels, "deployment": deployment}, sample.value)


def _renamed(name: str) -> str:
    return name.replace(":", "_")
