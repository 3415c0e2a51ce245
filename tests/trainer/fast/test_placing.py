"""What lies in host memory changes where things are, and nothing that is computed."""

import copy

import pytest
import torch

from tests.trainer.fast.conftest import Make, apart, fast, rows
from tunewright.trainer import adapters
from tunewright.trainer.fast import placing
from tunewright.trainer.fast.passes import Away, Keep, Movable, Plan, Sizes, plan_within
from tunewright.trainer.fast.streaming import LayerStream

SHORT = 24
"""Tokens of a pass: more of them than one, so that layers come and go several times a step."""


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("away", [Away.EMBEDDING, Away.LAYERS])
def test_a_step_with_parts_in_host_memory_is_the_same_to_the_last_bit(make: Make, away: Away, tied: bool) -> None:  # noqa: FBT001
    loss, wanted = fast(make("qwen2", tied=tied), rows(), keep=Keep.INPUT, tokens=SHORT, dropout=0.2)
    found_loss, found = fast(
        make("qwen2", tied=tied), rows(), keep=Keep.HOST, tokens=SHORT, dropout=0.2, away=away
    )  # fmt: skip
    assert found_loss == loss
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tile_bytes", [5_000, 2**20])
def test_a_head_that_comes_in_tiles_gives_the_same_loss_and_gradients(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    tied: bool,  # noqa: FBT001 - a case
    tile_bytes: int,
) -> None:
    monkeypatch.setattr(placing, "HEAD_TILE", tile_bytes)
    loss, wanted = fast(make("qwen2", tied=tied), rows(), keep=Keep.INPUT, tokens=SHORT, dropout=0.2)
    model = make("qwen2", tied=tied)
    found_loss, found = fast(model, rows(), keep=Keep.HOST, tokens=SHORT, dropout=0.2, away=Away.HEAD)
    assert len(list(model.get_base_model().lm_head.tiles())) == (56 if tile_bytes == 5_000 else 1)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert apart(found, wanted) < 1e-5


@pytest.mark.parametrize("away", [Away.LAYERS, Away.HEAD])
def test_others_who_call_the_model_find_the_same_weights(make: Make, away: Away) -> None:
    model, batch = make("llama"), rows()
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    parameters = adapters.count(model)
    with torch.no_grad():
        wanted = model(**given).logits
        fast(model, batch, tokens=SHORT, away=away)
        assert torch.equal(model(**given).logits, wanted)
        assert torch.equal(model(**given).logits, wanted)
    assert adapters.count(model) == parameters


def test_two_layers_take_the_room_of_all(make: Make) -> None:
    base = make("mistral").get_base_model()
    layers = [
        [module.base_layer for module in layer.modules() if hasattr(module, "base_layer")]
        for layer in base.model.layers
    ]
    before = [copy.deepcopy([module.weight.data for module in modules]) for modules in layers]
    stream = LayerStream(layers, torch.device("cpu"))
    places = {module.weight.data.untyped_storage().data_ptr() for modules in layers for module in modules}
    assert len(places) == 2
    for number in (0, 1, 2, 1, 0, 2):
        stream.begin(number)
        assert all(torch.equal(m.weight.data, kept) for m, kept in zip(layers[number], before[number], strict=True))
        stream.end(number)


def test_the_plan_sends_away_what_it_must_and_no_more() -> None:
    sizes = Sizes.of_layer(width=3584, mlp=18944, qkv=4608, attended=3584, heads=28, ranks=112, each=2)
    movable, layers = Movable(1_090_000_000, 3_400_000_000, 950_000_000), 28

    def plan(gigabytes: float) -> tuple[Away, bool]:
        found = plan_within(
            sizes, layers, gigabytes * 1e9, 2048, 32768, keep_all=False, movable=movable, places=list(Away)
        )
        room = gigabytes * 1e9 + movable.saved(found.away, layers)
        assert sizes.of_pass(found.tokens, found.keeps) <= room
        return found.away, Keep.HOST in found.keeps

    assert plan(60) == (Away.NOTHING, False)
    assert plan(0.2)[0] is Away.LAYERS
    assert plan(-1) == (Away.LAYERS, False)
    assert plan(-4) == (Away.HEAD, True)
    # Nothing fits: the run takes the least there is, and says so by running out of memory.
    assert plan_within(
        sizes, layers, -9e9, 2048, 32768, keep_all=False, movable=movable, places=list(Away)
    ) == Plan(2048, (Keep.HOST,) * layers, Away.HEAD)  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="streams are a GPU's")
@pytest.mark.parametrize("away", [Away.EMBEDDING, Away.LAYERS, Away.HEAD])
def test_a_gpu_computes_the_same_while_layers_and_inputs_come_and_go(make: Make, away: Away) -> None:
    batch = rows((400, 300, 500, 200))
    losses, gradients = zip(
        *(
            fast(make("qwen2", torch.bfloat16, device="cuda"), batch, torch.bfloat16, keep=keep, tokens=512, away=where)
            for keep, where in ((Keep.INPUT, Away.NOTHING), (Keep.HOST, away))
        ),
        strict=True,
    )
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert apart(gradients[1], gradients[0]) < 1e-2  # flash attention's backward pass adds in any order
