"""What each version answered lately, as this process saw it: for canary rules, for people, and for Prometheus.

Every gateway judges by its own traffic; any one of them may roll a canary back.
"""

import threading
import time
from collections import defaultdict, deque

from tunewright.gateway import metrics
from tunewright.gateway.canary import Figures, Sample, figures

_MAX_SAMPLES = 20_000

Key = tuple[str, int]
"""Alias and version."""


class Traffic:
    """Samples by version. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: dict[Key, deque[Sample]] = defaultdict(lambda: deque(maxlen=_MAX_SAMPLES))

    def record(
        self,
        key: Key | None,
        *,
        ok: bool,
        ttft: float | None = None,
        per_token: float | None = None,
        whole_token: float | None = None,
    ) -> None:
        """Keep one answer; `key` is None for a deployment that no alias points to.

        Args:
            key: who answered.
            ok: False if the version is to blame.
            ttft: seconds to the first piece of a stream.
            per_token: seconds between two pieces.
            whole_token: seconds a token of an answer that is no stream.
        """
        if key is None:
            return
        labels = (key[0], str(key[1]))
        metrics.VERSION_REQUESTS.labels(*labels, "ok" if ok else "error").inc()
        if ttft is not None:
            metrics.VERSION_TTFT_SECONDS.labels(*labels).observe(ttft)
        if per_token is not None:
            metrics.VERSION_TOKEN_SECONDS.labels(*labels).observe(per_token)
        with self._lock:
            self._samples[key].append(Sample(time.monotonic(), ok, ttft, per_token, whole_token))

    def figures(self, key: Key, seconds: float) -> Figures:
        """Return what a version showed in the last `seconds`."""
        since = time.monotonic() - seconds
        with self._lock:
            recent = [sample for sample in self._samples.get(key, ()) if sample.time >= since]
        return figures(recent)

    def forget(self, key: Key) -> None:
        """Drop a version that is gone, its series of metrics too."""
        with self._lock:
            self._samples.pop(key, None)
        metrics.forget_version(key[0], str(key[1]))
