"""Where the line lies between the trained model on an unquantised base and another model; figures of a real run."""

import re

import pytest

from tunewright.chassis.errors import Refused
from tunewright.merger.golden import GoldenAgreement, refuse_another_model
from tunewright.merger.spec import MergeSpec

NO_ADAPTER = GoldenAgreement(agreement=0.615, first_step_kl=3.298, tokens=52)


def refusal(adapted: GoldenAgreement, plain: GoldenAgreement = NO_ADAPTER) -> str:
    """Return the words of the refusal, nothing if the model is taken."""
    spec = MergeSpec()
    try:
        refuse_another_model(adapted, plain, min_agreement=spec.min_golden_agreement, max_kl=spec.max_golden_kl)
    except Refused as error:
        return error.message
    return ""


def test_the_rounding_of_a_quantised_base_is_taken() -> None:
    assert not refusal(GoldenAgreement(agreement=0.865, first_step_kl=0.028, tokens=52))


def test_an_adapter_that_hardly_changed_its_base_is_taken_though_rounding_outweighs_it() -> None:
    assert not refusal(GoldenAgreement(0.854, 0.135, 48), GoldenAgreement(0.833, 0.121, 48))


@pytest.mark.parametrize(
    ("agreement", "kl", "words"),
    [
        (0.654, 0.947, "KL of 0.5 nats is allowed"),  # alpha × 4
        (0.673, 1.716, "KL of 0.5 nats is allowed"),  # alpha × 0.1
        (0.635, 3.306, "KL of 0.5 nats is allowed"),  # layers shifted by one
        (0.290, 0.028, "30% of the recorded tokens must be repeated"),
    ],
)
def test_another_model_is_refused_with_both_figures(agreement: float, kl: float, words: str) -> None:
    assert re.search(f"base alone 3.3.*{words}", refusal(GoldenAgreement(agreement, kl, 52)))


def test_an_adapter_that_leads_away_on_both_counts_is_refused_though_within_the_limits() -> None:
    assert "leads the base away" in refusal(GoldenAgreement(0.45, 0.136, 48), GoldenAgreement(0.583, 0.095, 48))
