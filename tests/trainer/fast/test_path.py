"""The fast path computes what PEFT, bitsandbytes and autograd compute, without padding and without leaks."""

import pytest
import torch

from tests.trainer.fast.conftest import ALL, CONFIGS, Make, apart, counted, fast, plain, rows
from tunewright.trainer.fast.arithmetic import IGNORED
from tunewright.trainer.fast.dropout import LEVELS, keep_mask, key_of
from tunewright.trainer.fast.passes import Keep
from tunewright.trainer.fast.path import documents_of, packed


@pytest.mark.parametrize("kind", CONFIGS)
def test_loss_and_every_gradient_are_those_of_peft_and_bitsandbytes(make: Make, kind: str) -> None:
    model, batch = make(kind), rows()
    loss, wanted = plain(model, batch, torch.float32)
    found_loss, found = fast(model, batch)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert len(found) == 2 * 7 * 3
    assert all(apart({name: found[name]}, {name: wanted[name]}) < 1e-5 for name in wanted)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("down_proj",)])
def test_layers_without_adapters_only_pass_the_gradient_on(make: Make, targets: tuple[str, ...]) -> None:
    model, batch = make("qwen2", targets=targets, tied=True), rows()
    loss, wanted = plain(model, batch, torch.float32)
    found_loss, found = fast(model, batch, keep=Keep.INPUT, tokens=64)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert apart(found, wanted) < 1e-5


def test_in_bfloat16_both_are_equally_far_from_the_truth(make: Make) -> None:
    model, batch = make("qwen3", torch.bfloat16), rows()
    loss, by_peft = plain(model, batch, torch.bfloat16)
    found_loss, found = fast(model, batch, torch.bfloat16)
    _, exact = fast(make("qwen3"), batch)
    assert found_loss == pytest.approx(loss, rel=2e-3)
    # The base is the same NF4 in both; the exact one computes in float32.
    assert apart(found, exact) < 1.2 * apart(by_peft, exact) + 1e-3
    assert apart(found, by_peft) < 0.05


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_is_computed_twice_is_the_same_to_the_last_bit(make: Make, dropout: float) -> None:
    model, batch = make("qwen3"), rows()
    everything = fast(model, batch, keep=Keep.ALL, dropout=dropout)
    for keep in (Keep.ATTENTION, Keep.INPUT):
        loss, found = fast(model, batch, keep=keep, dropout=dropout)
        assert loss == everything[0]
        assert all(torch.equal(found[name], everything[1][name]) for name in found)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_step_is_the_same_however_its_rows_are_put_into_passes(make: Make, dropout: float) -> None:
    model, batch = make("llama"), rows()
    loss, wanted = fast(model, batch, tokens=1024, dropout=dropout)
    for tokens in (1, 64, 81):
        found_loss, found = fast(model, batch, tokens=tokens, dropout=dropout)
        assert found_loss == pytest.approx(loss, rel=1e-6)
        assert apart(found, wanted) < 1e-6


def test_documents_of_one_pass_do_not_see_each_other(make: Make) -> None:
    model, batch = make("mistral"), rows((30, 30, 30))
    batch["labels"][1:] = IGNORED
    loss, wanted = fast(model, batch)
    others = {**batch, "input_ids": batch["input_ids"].clone()}
    others["input_ids"][1:] = (others["input_ids"][1:] + 7) % 500
    found_loss, found = fast(model, others)
    assert found_loss == loss
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_a_packed_row_is_its_pieces(make: Make) -> None:
    model, batch = make("qwen2"), rows((20, 9))
    lengths = [20, 9]
    pieces = {
        "input_ids": torch.cat([batch["input_ids"][n, :length] for n, length in enumerate(lengths)])[None],
        "labels": torch.cat([batch["labels"][n, :length] for n, length in enumerate(lengths)])[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
    }
    documents = documents_of(pieces)
    assert [len(document) for document in documents] == lengths
    assert all(int(document.following[-1]) == IGNORED for document in documents)
    loss, wanted = plain(model, batch, torch.float32)
    pieces["labels"][0, 20] = IGNORED  # the second piece's first token follows nothing
    assert counted(pieces) == counted(batch)
    found_loss, found = fast(model, pieces)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert apart(found, wanted) < 1e-5


def test_no_document_is_lost_and_no_pass_is_larger_than_asked_for() -> None:
    documents = documents_of(rows((50, 3, 40, 33, 17, 64, 1)))
    passes = packed(documents, 64)
    assert sorted(document.first for each in passes for document in each) == [document.first for document in documents]
    assert all(sum(map(len, each)) <= 64 for each in passes)
    assert len(passes) == 4
    assert [len(each) for each in packed(documents, 10)] == [1] * 5 + [2]


def test_the_share_that_is_dropped_is_the_one_asked_for_and_each_mask_is_its_own() -> None:
    tokens, width, share = 400, 512, 0.05
    masks = [
        keep_mask(key_of(0, step, layer), round(share * LEVELS), torch.arange(tokens, dtype=torch.int32), width)
        for step in range(2)
        for layer in range(2)
    ]
    for mask in masks:
        dropped = (~mask).float()
        # Five standard deviations of so many independent draws, by elements, by columns and by tokens.
        assert abs(float(dropped.mean()) - share) < 5 * (share * 0.95 / tokens / width) ** 0.5
        assert float((dropped.mean(0) - share).abs().max()) < 5 * (share * 0.95 / tokens) ** 0.5
        assert float((dropped.mean(1) - share).abs().max()) < 5 * (share * 0.95 / width) ** 0.5
    for at, mask in enumerate(masks):
        for other in masks[:at]:
            both = float((~mask & ~other).float().mean())
            assert abs(both - share**2) < 5 * (share**2 / tokens / width) ** 0.5


def test_a_dropped_out_gradient_is_on_average_the_whole_one(make: Make) -> None:
    model, batch = make("llama", targets=ALL[3:4]), rows((8,))
    _, wanted = fast(model, batch)
    steps = [fast(model, batch, dropout=0.2, step=step)[1] for step in range(60)]
    mean = {name: torch.stack([found[name] for found in steps]).mean(0) for name in wanted}
    single = apart(steps[0], wanted)
    assert single > 0.1
    assert apart(mean, wanted) < single / 3
