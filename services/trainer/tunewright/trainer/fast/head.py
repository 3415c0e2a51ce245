"""A model's head in host memory: tiles of its rows, each some words, come to the device while the one before is used.

Who wants the whole head (evaluations, golden answers) gets a copy on the device, which is gone when tiles are next
asked for. On a CPU there are no copies. Knows no loss.
"""

from collections.abc import Iterator
from typing import Any

import torch


class HostHead(torch.nn.Module):
    """Takes the head's place in a model; `host` [V, D] is no parameter, so that nobody moves it.

    Args:
        weight: [V, D]; copied to pinned memory if it goes to a GPU.
        device: where its products are formed.
        tile_bytes: of a tile at most; two are on the GPU.
    """

    def __init__(self, weight: torch.Tensor, device: torch.device, tile_bytes: int) -> None:
        super().__init__()
        self._gpu = device.type == "cuda"
        self._device = device
        words, width = weight.shape
        self.words = max(1, min(words, tile_bytes // (width * weight.element_size())))
        self.host = _pinned(weight) if self._gpu else weight.detach()
        self.bias = None
        self._whole: torch.Tensor | None = None
        self._copying: Any = torch.cuda.Stream(device) if self._gpu else None  # type: ignore[no-untyped-call] # PyTorch's own
        self._slots: list[torch.Tensor] = []

    @property
    def weight(self) -> torch.Tensor:
        """The whole head on the device."""
        if self._whole is None:
            self._whole = self.host.to(self._device)
        return self._whole

    def tiles(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield each tile's first word, and the tile [≤ words, D] on the device, good until the next is asked for."""
        self._whole = None
        begins = range(0, len(self.host), self.words)
        if not self._gpu:
            for begin in begins:
                yield begin, self.host[begin : begin + self.words]
            return
        if not self._slots:
            shape = (self.words, self.host.shape[1])
            self._slots = [torch.empty(shape, dtype=self.host.dtype, device=self._device) for _ in range(2)]
        coming = self._send_for(0, 0)
        for number, begin in enumerate(begins):
            tile, came = coming
            torch.cuda.current_stream().wait_event(came)
            if number + 1 < len(begins):
                coming = self._send_for(number + 1, begins[number + 1])
            yield begin, tile

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits [..., V]."""
        return torch.nn.functional.linear(hidden, self.weight)

    def _send_for(self, number: int, begin: int) -> tuple[torch.Tensor, Any]:
        """Begin to copy a tile into its slot, after what has been launched so far, which may still read the slot."""
        rows = self.host[begin : begin + self.words]
        tile = self._slots[number % 2][: len(rows)]
        self._copying.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copying):
            tile.copy_(rows, non_blocking=True)
            came: Any = torch.cuda.Event()  # type: ignore[no-untyped-call] # PyTorch's own
            came.record()
        return tile, came


def _pinned(weight: torch.Tensor) -> torch.Tensor:
    host = torch.empty(weight.shape, dtype=weight.dtype, pin_memory=True)
    return host.copy_(weight.detach())
