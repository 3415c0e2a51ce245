"""Where the line lies between the trained model on an unquantised base and another model; figures of a real run."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tunewright.chassis.errors import Refused
from tunewright.merger.golden import LARGEST_KL, LEAST_AGREEMENT, GoldenAgreement, read_golden, refuse_another_model
from tunewright.merger.probes import load_tokenizer
from tunewright.merger.spec import MergeSpec

NO_ADAPTER = GoldenAgreement(agreement=0.615, first_step_kl=3.298, tokens=52)


def refusal(
    adapted: GoldenAgreement,
    plain: GoldenAgreement = NO_ADAPTER,
    *,
    min_agreement: float = LEAST_AGREEMENT,
    max_kl: float = LARGEST_KL,
) -> str:
    """Return the words of the refusal, nothing if the model is taken; by default on a base that was not quantised."""
    try:
        refuse_another_model(adapted, plain, min_agreement=min_agreement, max_kl=max_kl)
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


@pytest.mark.parametrize(
    ("agreement", "kl", "taken"),
    [
        (1.0, 0.00023, True),  # the true adapter
        (0.967, 0.0518, False),  # alpha × 2
        (0.869, 0.0569, False),  # alpha × 0.5
        (0.984, 0.0266, False),  # layers 10 and 11 of 30 exchanged
        (0.590, 0.240, False),  # alpha × 4
        (0.508, 5.44, False),  # every layer's adapter on the next layer
    ],
)
def test_on_the_weights_that_training_saw_small_sabotage_is_seen_too(agreement: float, kl: float, taken: bool) -> None:  # noqa: FBT001 - a case
    spec = MergeSpec()
    found = GoldenAgreement(agreement, kl, 61)
    words = refusal(
        found, GoldenAgreement(0.492, 5.49, 61), min_agreement=spec.min_golden_agreement, max_kl=spec.max_golden_kl
    )
    assert bool(words) is not taken


def test_a_prompt_that_becomes_other_tokens_is_refused_with_a_date_in_its_template_too(
    adapter: Path, tmp_path: Path
) -> None:
    """Trainer and merger tell templates the same date on any day, so that nothing may differ."""
    folder = tmp_path / "dated"
    shutil.copytree(adapter, folder)
    document = json.loads((folder / "golden.json").read_text("utf-8"))
    document["prompts"][0]["dated"] = True
    document["prompts"][0]["prompt_token_ids"][3] ^= 1
    (folder / "golden.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(Refused, match="foreign tokenizer: golden prompt 1"):
        read_golden(folder, load_tokenizer(folder, "adapter"))
