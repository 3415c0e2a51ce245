"""Layers' frozen weights in host memory; two layers at a time are on the GPU, and the next comes while one computes.

Each layer's 4-bit weights and their constants lie in one pinned buffer. The modules' tensors are views of one of two
buffers on the GPU, which layers of even and of odd number take turns in: whoever computes with a layer says when it
begins and ends. Other users of the model (evaluations, golden answers) do so by hooks. On a CPU the same without
streams. Knows no order of layers beyond what it is told, and no gradients: nobody may come back to a layer's weights
after its end without a new beginning, which autograd would.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

_ALIGNED = 256
"""Bytes at whose multiples tensors begin, as the GPU's allocator has it."""


class LayerStream:
    """Takes the layers' weights to host memory when it is made.

    Args:
        layers: bitsandbytes' linear modules of each layer; all layers of the same shapes.
        device: where they are computed with.
    """

    def __init__(self, layers: Sequence[Sequence[Any]], device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._copying: Any = torch.cuda.Stream(device) if self._gpu else None  # type: ignore[no-untyped-call] # PyTorch's own
        size = max(sum(_room(tensor) for _, _, tensor in _parts(modules)) for modules in layers)
        self._slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self._holds: list[int | None] = [None, None]
        self._came: list[Any] = [_event() if self._gpu else None for _ in range(2)]
        self._left: list[Any] = [_event() if self._gpu else None for _ in range(2)]
        self._host = [self._take(modules, self._slots[number % 2]) for number, modules in enumerate(layers)]

    def begin(self, number: int, then: int | None = None) -> None:
        """Make sure that layer `number` is there for what follows on this stream, and send for layer `then`."""
        self._fetch(number)
        if self._gpu:
            torch.cuda.current_stream().wait_event(self._came[number % 2])
        if then is not None and then % 2 != number % 2:
            self._fetch(then)

    def end(self, number: int) -> None:
        """Say that nothing that follows on this stream computes with layer `number`."""
        if self._gpu:
            self._left[number % 2].record()

    def hook(self, modules: Sequence[Any]) -> None:
        """Let whoever calls a layer's module begin and end with it."""
        for number, module in enumerate(modules):
            then = (number + 1) % len(modules)
            module.register_forward_pre_hook(lambda *_, at=number, then=then: self.begin(at, then))
            module.register_forward_hook(lambda *_, at=number: self.end(at))

    def _fetch(self, number: int) -> None:
        slot = number % 2
        if self._holds[slot] == number:
            return
        host = self._host[number]
        if self._gpu:
            self._copying.wait_event(self._left[slot])
            with torch.cuda.stream(self._copying):
                self._slots[slot][: len(host)].copy_(host, non_blocking=True)
                self._came[slot].record()
        else:
            self._slots[slot][: len(host)].copy_(host)
        self._holds[slot] = number

    def _take(self, modules: Sequence[Any], slot: torch.Tensor) -> torch.Tensor:
        for module in modules:
            _constants_to(module.weight.quant_state, slot.device)
        parts = list(_parts(modules))
        host = torch.empty(sum(_room(tensor) for _, _, tensor in parts), dtype=torch.uint8, pin_memory=self._gpu)
        at = 0
        for owner, name, tensor in parts:
            count = tensor.numel() * tensor.element_size()
            host[at : at + count].copy_(tensor.detach().contiguous().view(-1).view(torch.uint8))
            setattr(owner, name, slot[at : at + count].view(tensor.dtype).view(tensor.shape))
            at += _room(tensor)
        return host


def _parts(modules: Sequence[Any]) -> Iterator[tuple[Any, str, torch.Tensor]]:
    """Yield the tensors of modules that are large, and where they hang: weights, and constants of their blocks."""
    for module in modules:
        state = module.weight.quant_state
        yield module.weight, "data", module.weight.data
        yield state, "absmax", state.absmax
        if state.nested:
            yield state.state2, "absmax", state.state2.absmax


def _constants_to(state: Any, device: torch.device) -> None:  # noqa: ANN401 - bitsandbytes ships no types
    """Move what all blocks of a weight share, and is small."""
    state.code = state.code.to(device)
    if state.nested:
        state.offset = state.offset.to(device)
        state.state2.code = state.state2.code.to(device)


def _event() -> Any:  # noqa: ANN401 - PyTorch types none
    return torch.cuda.Event()  # type: ignore[no-untyped-call] # their own


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
