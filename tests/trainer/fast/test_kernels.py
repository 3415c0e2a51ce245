"""Each Triton kernel says what plain torch says: on a GPU, or by Triton's interpreter where there is none."""

import os
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="CPU builds of torch bring no Triton")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from bitsandbytes.functional import quantize_4bit

from tunewright.trainer.fast.arithmetic import TorchArithmetic
from tunewright.trainer.fast.dropout import LEVELS, Dropout, key_of
from tunewright.trainer.fast.triton_arithmetic import TritonArithmetic

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN, KERNELS = TorchArithmetic(), TritonArithmetic()
# bf16 has 8 bits; Triton's interpreter cuts the others off where a GPU rounds.
NEAR: dict[str, Any] = {"rtol": 2e-2, "atol": 2e-2}


# The interpreter multiplies matrices of bf16 as if their bits were whole numbers.
PRODUCTS = torch.bfloat16 if DEVICE == "cuda" else torch.float32


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def some_dropout(tokens: int, parts: int) -> Dropout:
    rows = torch.arange(7, 7 + tokens, dtype=torch.int32, device=DEVICE)
    return Dropout(tuple(key_of(3, part) for part in range(parts)), round(0.3 * LEVELS), rows)


@pytest.mark.parametrize("adds", [False, True])
def test_norm_and_its_gradient(adds: bool) -> None:  # noqa: FBT001 - a case
    x, delta, weight, back = drawn(5, 48), drawn(5, 48) if adds else None, drawn(48), drawn(5, 48) * 2
    outs = [torch.zeros(5, 64, dtype=x.dtype, device=DEVICE) for _ in range(2)]
    found = [
        each.add_norm(x, delta, weight, 1e-6, out[:, :48]) for each, out in zip((PLAIN, KERNELS), outs, strict=True)
    ]
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(outs[1], outs[0], **NEAR)
    grads = [drawn(5, 48), drawn(5, 48)]
    for each, (total, factors), into in zip((PLAIN, KERNELS), found, grads, strict=True):
        each.norm_backward(back, total, weight, factors, into)
    torch.testing.assert_close(grads[1], grads[0], rtol=2e-2, atol=4e-2)


def test_heads_turn_and_turn_back() -> None:
    x = drawn(6, 3 * 32).view(6, 3, 32)
    angles = torch.arange(6.0, device=DEVICE)[:, None] * torch.linspace(1, 0.1, 16, device=DEVICE)
    cos, sin = (table.repeat(1, 2).contiguous() for table in (angles.cos(), angles.sin()))
    outs = [torch.empty_like(x) for _ in range(2)]
    for each, out in zip((PLAIN, KERNELS), outs, strict=True):
        each.rotate(x, cos, sin, out)
    torch.testing.assert_close(outs[1], outs[0], **NEAR)
    back = torch.empty_like(x)
    KERNELS.rotate(outs[1], cos, -sin, back)
    torch.testing.assert_close(back, x, **NEAR)


def test_swiglu_and_its_gradient() -> None:
    gate_up = drawn(5, 2 * 40)
    outs = [torch.empty(5, 48, dtype=torch.bfloat16, device=DEVICE)[:, :40] for _ in range(2)]
    backs = [(gate_up.clone(), drawn(5, 40)) for _ in range(2)]
    for each, out, (both, grad) in zip((PLAIN, KERNELS), outs, backs, strict=True):
        each.swiglu(gate_up, out)
        each.swiglu_backward(both, grad)
    torch.testing.assert_close(outs[1], outs[0], **NEAR)
    torch.testing.assert_close(backs[1], backs[0], **NEAR)


@pytest.mark.parametrize(("parts", "rank"), [(3, 8), (2, 16), (1, 20)])
def test_adapters_see_the_same_dropped_inputs(parts: int, rank: int) -> None:
    x, down, back = (drawn(*shape, dtype=PRODUCTS) for shape in ((70, 96), (parts * rank, 96), (70, parts * rank)))
    ranks, dropout = (rank,) * parts, some_dropout(70, parts)
    outs, intos, downs = [], [], []
    for each in (PLAIN, KERNELS):
        out, into = torch.empty(70, parts * rank, dtype=x.dtype, device=DEVICE), drawn(70, 96, dtype=PRODUCTS)
        each.adapter_inputs(x, down, ranks, dropout, out)
        each.adapter_input_gradient(back, down, ranks, dropout, into)
        outs.append(out)
        intos.append(into)
        downs.append(each.adapter_down_gradient(back, x, ranks, dropout).float())
    for found in (outs, intos, downs):
        far = (found[1].float() - found[0].float()).norm() / found[0].float().norm()
        # One mask off by an element would be 0.05 and more.
        assert far < 0.015


def test_cross_entropy_and_its_gradient() -> None:
    logits, labels = drawn(4, 5000) * 3, torch.tensor([0, 4999, 17, 4096], device=DEVICE)
    labels[2] = logits[2].argmax()
    copies = [logits.clone(), logits.clone()]
    found = [each.cross_entropy(copy, labels, 0.25) for each, copy in zip((PLAIN, KERNELS), copies, strict=True)]
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-4)
    assert found[1][1].bool().tolist() == found[0][1].tolist()
    torch.testing.assert_close(copies[1], copies[0], rtol=2e-2, atol=1e-3)


def test_a_softmax_by_tiles_of_words() -> None:
    logits, labels = drawn(4, 5000) * 3, torch.tensor([0, 4999, 17, 2600], device=DEVICE)
    results = []
    for each in (PLAIN, KERNELS):
        highest = torch.full((4,), float("-inf"), device=DEVICE)
        total, wanted = torch.zeros_like(highest), torch.zeros_like(highest)
        for first in (0, 2500):
            tile = logits[:, first : first + 2500].clone()
            each.add_to_sums(tile, labels - first, highest, total, wanted)
        log_sum = highest + total.log()
        tiles = [logits[:, first : first + 2500].clone() for first in (0, 2500)]
        for tile, first in zip(tiles, (0, 2500), strict=True):
            each.softmax_gradient(tile, labels - first, log_sum, 0.25)
        results.append((log_sum, wanted, torch.cat(tiles, dim=1)))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=1e-3)
    whole = logits.clone()
    losses, _ = PLAIN.cross_entropy(whole, labels, 0.25)
    torch.testing.assert_close(results[0][0] - results[0][1], losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0][2], whole, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("double", [True, False])
def test_weights_unpack_to_what_bitsandbytes_unpacks(double: bool) -> None:  # noqa: FBT001 - a case
    packed, state = quantize_4bit(drawn(300, 128), quant_type="nf4", compress_statistics=double)

    class Weight:
        data, quant_state = packed, state

    outs = [torch.zeros(300, 144, dtype=torch.bfloat16, device=DEVICE) for _ in range(2)]
    for each, out in zip((PLAIN, KERNELS), outs, strict=True):
        each.unpack(Weight(), out[:, :128])
    torch.testing.assert_close(outs[1], outs[0], rtol=0.0 if DEVICE == "cuda" else 1e-2, atol=0.0)
