"""The rules that judge a canary: numbers in, verdict and sentence out."""

import pytest

from tunewright.chassis.errors import InvalidSpec
from tunewright.gateway.canary import Figures, Rules, Sample, Verdict, figures, judge
from tunewright.gateway.routing import position

TIMED = {"streams": 50, "paced": 50}
GOOD = Figures(
    requests=100, errors=1, ttft_p50=0.1, ttft_p95=0.2, per_token_p50=0.02, whole_token_p50=0.02,
    streams=50, paced=50, wholes=50,
)  # fmt: skip
RULES = Rules(window_seconds=60, min_requests=50, min_errors=3, max_error_share=0.05, slack_seconds=0.05)


def test_figures_are_counted_and_ranked() -> None:
    samples = [Sample(time=n, ok=n % 4 != 0, ttft=n / 100, per_token=n / 1000) for n in range(1, 101)]
    found = figures([*samples, Sample(time=0, ok=True)])
    assert (found.requests, found.errors) == (101, 25)
    assert (found.streams, found.paced, found.wholes) == (100, 100, 0)
    assert (found.ttft_p50, found.ttft_p95, found.per_token_p50) == (0.51, 0.96, 0.051)


@pytest.mark.parametrize(
    ("canary", "age", "verdict", "says"),
    [
        (GOOD, 60, Verdict.PASS, "100 answers in 60 s, 1 of them errors"),
        (GOOD, 59, Verdict.WAIT, "59 of 60 s over"),
        (Figures(requests=49), 600, Verdict.WAIT, "49 of 50 answers seen"),
        (Figures(requests=10, errors=3), 1, Verdict.ROLL_BACK, "3 of 10 answers were errors, 1 of 100"),
        (Figures(requests=10, errors=2), 1, Verdict.WAIT, "10 of 50"),
        (Figures(requests=100, errors=6, ttft_p95=0.2, **TIMED), 60, Verdict.PASS, "6 of them errors"),
        (Figures(requests=100, errors=7, ttft_p95=0.2), 60, Verdict.ROLL_BACK, "up to 5% more is allowed"),
        (Figures(requests=50, ttft_p95=0.45, **TIMED), 60, Verdict.PASS, "50 answers"),
        (Figures(requests=50, ttft_p95=0.46, **TIMED), 1, Verdict.ROLL_BACK, "time to first token (p95) is 460 ms"),
        (Figures(requests=50, per_token_p50=0.046, **TIMED), 1, Verdict.ROLL_BACK, "time a token (p50) is 46 ms"),
        (Figures(requests=50, whole_token_p50=0.046, wholes=50), 1, Verdict.ROLL_BACK, "of whole answers (p50) is 46"),
        (Figures(requests=50, whole_token_p50=0.045, wholes=50), 60, Verdict.PASS, "50 answers"),
        (Figures(requests=50, ttft_p95=9, streams=1, wholes=49), 60, Verdict.WAIT, "1 streams and 49 whole answers"),
    ],
)
def test_each_rule_holds_at_its_edge(canary: Figures, age: float, verdict: Verdict, says: str) -> None:
    found, why = judge(RULES, canary, GOOD, age)
    assert found is verdict, why
    assert says in why


def test_a_canary_is_not_blamed_for_what_the_serving_version_does_as_well() -> None:
    sick = Figures(requests=100, errors=50, ttft_p95=2.0, **TIMED)
    assert judge(RULES, Figures(requests=100, errors=52, ttft_p95=2.1, **TIMED), sick, 60)[0] is Verdict.PASS


def test_a_serving_version_with_few_timed_answers_lets_no_canary_pass() -> None:
    few = Figures(requests=3, ttft_p95=0.1, streams=3, wholes=0)
    verdict, why = judge(RULES, GOOD, few, 600)
    assert verdict is Verdict.WAIT
    assert why == ("too few timed answers to compare: 3 streams and 0 whole answers of each, 50 of one kind are needed")


def test_wrong_rules_are_named() -> None:
    with pytest.raises(InvalidSpec, match=r"rules\.max_error_share.*rules\.speed"):
        Rules.of({"max_error_share": 2, "speed": 1})


def test_users_are_spread_evenly_and_a_growing_share_keeps_those_it_has() -> None:
    users = [f"user-{n}" for n in range(4000)]
    small = {user for user in users if position("bot", user) < 10}
    large = {user for user in users if position("bot", user) < 30}
    assert small < large
    assert 0.08 < len(small) / len(users) < 0.12
    assert 0.27 < len(large) / len(users) < 0.33
    assert small != {user for user in users if position("other-bot", user) < 10}, "not the same users every time"
