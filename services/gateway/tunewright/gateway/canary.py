"""Rules that judge a canary by what it showed over a window, beside the version that serves. Knows no clock, no store.

Rolled back at once:   `min_errors` errors or more in the window, and its share of errors is above the serving
                       version's by more than `max_error_share`
Rolled back:           with `min_requests` timed answers of each, its 95th percentile of the time to the first token is
                       above `max_ttft_ratio` times the serving version's plus `slack_seconds`, or its median time a
                       token, of streams or of whole answers, is above `max_token_ratio` times the serving version's
                       plus a tenth of the slack
Passed:                the window is over, it and the serving version have `min_requests` streams in it or so many whole
                       answers, and nothing of the above holds
Else it waits.         A request that its client broke off, and one that the client got wrong (4xx), is no error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunewright.chassis.errors import InvalidSpec, Violation


class Rules(BaseModel):
    """What a canary is judged by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_seconds: float = Field(default=300, gt=0, le=86_400)
    min_requests: int = Field(default=50, ge=1)
    min_errors: int = Field(default=3, ge=1)
    max_error_share: float = Field(default=0.05, ge=0, le=1)
    """Share of its answers that may be errors beyond the serving version's share, 0 to 1."""
    max_ttft_ratio: float = Field(default=2.0, gt=0)
    max_token_ratio: float = Field(default=2.0, gt=0)
    slack_seconds: float = Field(default=0.1, ge=0)
    """Differences of the time to the first token up to this are never held against it."""
    auto_promote: bool = True
    """Give it all traffic once it passed; else that is told, and it stays."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Rules":
        """Return checked rules.

        Raises:
            InvalidSpec: with every wrong field.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            found = [
                Violation("rules." + ".".join(str(part) for part in item["loc"]), str(item["msg"]))
                for item in error.errors()
            ]
            text = "; ".join(f"{v.field}: {v.description}" for v in found)
            raise InvalidSpec(text, violations=found) from error


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of a version."""

    time: float
    """Monotonic, seconds."""
    ok: bool
    ttft: float | None = None
    """Seconds from the request to the first piece of a streamed answer."""
    per_token: float | None = None
    """Seconds between two pieces of a streamed answer, on average."""
    whole_token: float | None = None
    """Seconds of an answer that is no stream, from the request to its end, by its tokens."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a version showed over a window."""

    requests: int = 0
    errors: int = 0
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    per_token_p50: float | None = None
    whole_token_p50: float | None = None
    streams: int = 0
    """Answers with a time to the first token."""
    paced: int = 0
    """Streams with a time a token."""
    wholes: int = 0
    """Whole answers with a time a token."""

    @property
    def error_share(self) -> float:
        """Errors among its answers, 0 to 1."""
        return self.errors / self.requests if self.requests else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return them for people and records; times in milliseconds."""
        times = {
            "ttft_p50_ms": self.ttft_p50,
            "ttft_p95_ms": self.ttft_p95,
            "per_token_p50_ms": self.per_token_p50,
            "whole_token_p50_ms": self.whole_token_p50,
        }
        shown = {name: None if value is None else round(value * 1000, 2) for name, value in times.items()}
        return {"requests": self.requests, "errors": self.errors, **shown}


class Verdict(StrEnum):
    """What becomes of a canary."""

    WAIT = "wait"
    PASS = "pass"  # noqa: S105 - no password
    ROLL_BACK = "roll_back"


def figures(samples: Sequence[Sample]) -> Figures:
    """Return the figures of samples."""
    ttft = sorted(sample.ttft for sample in samples if sample.ttft is not None)
    token = sorted(sample.per_token for sample in samples if sample.per_token is not None)
    whole = sorted(sample.whole_token for sample in samples if sample.whole_token is not None)
    return Figures(
        requests=len(samples),
        errors=sum(not sample.ok for sample in samples),
        ttft_p50=_quantile(ttft, 0.5),
        ttft_p95=_quantile(ttft, 0.95),
        per_token_p50=_quantile(token, 0.5),
        whole_token_p50=_quantile(whole, 0.5),
        streams=len(ttft),
        paced=len(token),
        wholes=len(whole),
    )


def judge(rules: Rules, canary: Figures, serving: Figures, age_seconds: float) -> tuple[Verdict, str]:
    """Return the verdict and the sentence that says why.

    Args:
        rules: of the canary.
        canary: its figures over the window.
        serving: the serving version's over the same window.
        age_seconds: how long it has had its share of the traffic.
    """
    excess = canary.error_share - serving.error_share
    if canary.errors >= rules.min_errors and excess > rules.max_error_share:
        return Verdict.ROLL_BACK, (
            f"{canary.errors} of {canary.requests} answers were errors, {serving.errors} of {serving.requests} of the "
            f"serving version's; up to {rules.max_error_share:.0%} more is allowed"
        )
    if canary.requests < rules.min_requests:
        return Verdict.WAIT, f"{canary.requests} of {rules.min_requests} answers seen"
    if slow := _slower(rules, canary, serving):
        return Verdict.ROLL_BACK, slow
    if age_seconds < rules.window_seconds:
        return Verdict.WAIT, f"{age_seconds:.0f} of {rules.window_seconds:.0f} s over, nothing against it"
    streams, wholes = min(canary.streams, serving.streams), min(canary.wholes, serving.wholes)
    if max(streams, wholes) < rules.min_requests:
        return Verdict.WAIT, (
            f"too few timed answers to compare: {streams} streams and {wholes} whole answers of each, "
            f"{rules.min_requests} of one kind are needed"
        )
    return (
        Verdict.PASS,
        f"{canary.requests} answers in {rules.window_seconds:.0f} s, {canary.errors} of them errors",
    )


def _slower(rules: Rules, canary: Figures, serving: Figures) -> str:
    """Return what is slower than allowed, empty if nothing is; a time counts that both have `min_requests` of."""
    slack, token_slack = rules.slack_seconds, rules.slack_seconds / 10
    few = rules.min_requests
    return (
        (
            min(canary.streams, serving.streams) >= few
            and _above("time to first token (p95)", canary.ttft_p95, serving.ttft_p95, rules.max_ttft_ratio, slack)
        )
        or (
            min(canary.paced, serving.paced) >= few
            and _above(
                "time a token (p50)", canary.per_token_p50, serving.per_token_p50, rules.max_token_ratio, token_slack
            )
        )
        or (
            min(canary.wholes, serving.wholes) >= few
            and _above(
                "time a token of whole answers (p50)",
                canary.whole_token_p50,
                serving.whole_token_p50,
                rules.max_token_ratio,
                token_slack,
            )
        )
        or ""
    )


def _above(name: str, mine: float | None, theirs: float | None, ratio: float, slack: float) -> str:
    if mine is None or theirs is None or mine <= theirs * ratio + slack:
        return ""
    shown, other = f"{mine * 1000:.0f} ms", f"{theirs * 1000:.0f} ms"
    return f"{name} is {shown}, the serving version's {other}; allowed is {ratio:g} times and {slack * 1000:.0f} ms"


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
