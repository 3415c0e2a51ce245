"""What each key uses, held against its limits: requests and tokens in a minute. Lives in one process and one loop.

A limit is a bucket that holds a minute's worth and fills evenly. A request takes one from it before it is answered;
tokens are taken when they are known, so the bucket of tokens may fall below zero, and then refuses until it has filled.
Every replica of the gateway has buckets of its own. Knows nothing of HTTP and of the database.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from tunewright.gateway.keys import KeyRecord

_MINUTE = 60.0


class Bucket:
    """One limit of one key.

    Args:
        capacity: units a minute.
        clock: seconds, never going back.
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self._clock = clock
        self._level = float(capacity)
        self._read_at = clock()

    @property
    def left(self) -> int:
        """Whole units that may be taken now."""
        self._fill()
        return max(0, math.floor(self._level))

    def take(self, units: int) -> None:
        """Take units, more than there are if need be."""
        self._fill()
        self._level -= units

    def seconds_until(self, units: float) -> float:
        """Return the seconds until so many units are there, 0 if they are."""
        self._fill()
        return max(0.0, (min(units, self.capacity) - self._level) * _MINUTE / self.capacity)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._read_at) * self.capacity / _MINUTE)
        self._read_at = now


@dataclass(frozen=True, kw_only=True)
class Exceeded:
    """A limit that is used up."""

    what: str
    """requests or tokens."""
    limit: int
    """Units a minute."""
    seconds: int
    """Until one unit is there, rounded up."""


class Meter:
    """The buckets of all keys that came by."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def admit(self, key: KeyRecord) -> Exceeded | None:
        """Take one request of a key, or return the limit that forbids it."""
        for what in ("requests", "tokens"):
            bucket = self._bucket(key, what)
            if bucket is not None and bucket.left < 1:
                seconds = max(1, math.ceil(bucket.seconds_until(1)))
                return Exceeded(what=what, limit=bucket.capacity, seconds=seconds)
        requests = self._bucket(key, "requests")
        if requests is not None:
            requests.take(1)
        return None

    def take_tokens(self, key: KeyRecord, tokens: int) -> None:
        """Count tokens of a prompt and its answer."""
        bucket = self._bucket(key, "tokens")
        if bucket is not None:
            bucket.take(tokens)

    def headers(self, key: KeyRecord) -> dict[str, str]:
        """Return the rate-limit headers of an answer; those of limits that the key has."""
        found = {}
        for what in ("requests", "tokens"):
            bucket = self._bucket(key, what)
            if bucket is not None:
                found[f"x-ratelimit-limit-{what}"] = str(bucket.capacity)
                found[f"x-ratelimit-remaining-{what}"] = str(bucket.left)
                found[f"x-ratelimit-reset-{what}"] = f"{bucket.seconds_until(bucket.capacity):.3f}s"
        return found

    def _bucket(self, key: KeyRecord, what: str) -> Bucket | None:
        capacity = key.limits.requests_per_minute if what == "requests" else key.limits.tokens_per_minute
        if capacity == 0:
            return None
        bucket = self._buckets.get((key.id, what))
        if bucket is None or bucket.capacity != capacity:
            bucket = self._buckets[key.id, what] = Bucket(capacity, self._clock)
        return bucket
