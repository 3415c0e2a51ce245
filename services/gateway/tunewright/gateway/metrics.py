"""Prometheus metrics of the gateway, declared here and nowhere else."""

from collections.abc import Callable, Iterator

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tunewright.chassis.errors import TunewrightError

HTTP_REQUESTS = Counter("tunewright_http_requests_total", "Requests answered", ["method", "route", "status"])
HTTP_SECONDS = Histogram(
    "tunewright_http_request_duration_seconds",
    "Time from a request's first byte to its answer's last",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
HTTP_OPEN = Gauge("tunewright_http_requests_in_progress", "Requests under way")
FIRST_BYTE_SECONDS = Histogram(
    "tunewright_completion_first_byte_seconds",
    "Time from a chat or completion request to the first byte of the engine's answer",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
VERSION_REQUESTS = Counter(
    "tunewright_version_requests_total", "Answers of a version of a public name", ["alias", "version", "outcome"]
)
VERSION_TTFT_SECONDS = Histogram(
    "tunewright_version_first_token_seconds",
    "Time from a request to the first piece of a streamed answer",
    ["alias", "version"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
VERSION_TOKEN_SECONDS = Histogram(
    "tunewright_version_token_seconds",
    "Mean time between two pieces of a streamed answer",
    ["alias", "version"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
UPLOADED = Counter("tunewright_uploaded_bytes_total", "Bytes of files taken")


def forget_version(alias: str, version: str) -> None:
    """Drop the series of a version that is gone."""
    labels = {"alias": alias, "version": version}
    for metric in (VERSION_REQUESTS, VERSION_TTFT_SECONDS, VERSION_TOKEN_SECONDS):
        metric.remove_by_labels(labels)


class RunsCollector(Collector):
    """Runs by state, counted in the database when Prometheus asks, so that every replica tells the same."""

    def __init__(self, counts: Callable[[], dict[str, int]], states: list[str]) -> None:
        self._counts = counts
        self._states = states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauge; nothing while the database does not answer."""
        family = GaugeMetricFamily("tunewright_runs", "Runs by state", labels=["state"])
        try:
            counts = self._counts()
        except TunewrightError:
            return
        for state in self._states:
            family.add_metric([state], counts.get(state, 0))
        yield family
