"""FlashAttention 4 is taken where it is installed and right, and torch's attention says why it is not."""

from importlib.util import find_spec
from itertools import pairwise

import pytest
import torch

from tests.trainer.fast.conftest import Make, apart, fast, rows
from tunewright.trainer.fast import flash4, reading
from tunewright.trainer.fast.attention import Attention, Documents, TorchAttention

INSTALLED = torch.cuda.is_available() and find_spec("flash_attn") is not None


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    found: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), is_causal=True, scale=scale, enable_gqa=True
    )
    return found.transpose(0, 1)


class ThroughAutograd(TorchAttention):
    """What the package does, in plain torch: autograd over documents, in float32."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, cu_seqlens_q: torch.Tensor, softmax_scale: float,
        **settings: object,
    ) -> torch.Tensor:  # fmt: skip
        assert settings["causal"] is True
        ends, pieces = cu_seqlens_q.tolist(), []
        for begin, end in pairwise(ends):
            pieces.append(causal(q[begin:end], k[begin:end], v[begin:end], softmax_scale))
        return torch.cat(pieces)


def test_what_goes_through_autograd_gives_the_same_step(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, wanted = fast(make("qwen2"), rows(), dropout=0.2)
    through: Attention = flash4.Flash4Attention(ThroughAutograd().attend)
    monkeypatch.setattr(reading, "TorchAttention", lambda: through)
    found_loss, found = fast(make("qwen2"), rows(), dropout=0.2)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert apart(found, wanted) < 1e-4


def test_a_trial_finds_attention_that_is_wrong() -> None:
    def forgetful(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **settings: object) -> torch.Tensor:
        del settings
        return causal(q, k, v, q.shape[-1] ** -0.5)

    device = torch.device("cpu")
    right = flash4.Flash4Attention(ThroughAutograd().attend)
    wrong = flash4.Flash4Attention(forgetful)  # it sees across documents
    assert flash4._apart(right, device, 4, 2, 32) < flash4._NEAR
    assert flash4._apart(wrong, device, 4, 2, 32) > flash4._NEAR
    assert flash4.flash4(device, 4, 2, 32) == (None, "FlashAttention 4 is for GPUs")


@pytest.mark.skipif(not INSTALLED, reason="FlashAttention 4 needs a GPU, and to be installed")
def test_the_real_one_gives_what_torch_gives() -> None:
    device = torch.device("cuda", 0)
    found, why = flash4.flash4(device, 4, 2, 64)
    assert found is not None, why
    documents = Documents.of([300, 17, 129], device)
    q, k, v, grad = (torch.randn(446, heads, 64, device=device, dtype=torch.bfloat16) for heads in (4, 2, 2, 4))
    results = []
    each: tuple[Attention, ...] = (found, TorchAttention())
    for attention in each:
        out, saved = attention.forward(q, k, v, documents, 0.125)
        results.append((out, *attention.backward(grad, (q, k, v, out), saved, documents, 0.125)))
    for mine, wanted in zip(*results, strict=True):
        assert float((mine.float() - wanted.float()).norm() / wanted.float().norm()) < 0.01
