"""Layers' inputs in host memory between the forward and the backward pass, copied while the GPU computes.

On a CPU nothing moves: that is host memory. Knows no layers, only their numbers.
"""

from typing import Any

import torch


class HostInputs:
    """Keeps one input [T, D] of each layer; its buffers are made once and used in every pass."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._copying: Any = torch.cuda.Stream(device) if self._gpu else None  # type: ignore[no-untyped-call] # PyTorch's own
        self._rooms: dict[int, torch.Tensor] = {}
        self._kept: dict[int, torch.Tensor] = {}
        self._coming: dict[int, tuple[torch.Tensor, Any]] = {}
        self._going: tuple[torch.Tensor, Any] | None = None
        """What is being copied away, and when it will have been."""

    def put(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """Copy `x` away; return where it lies meanwhile."""
        if not self._gpu:
            self._kept[number] = x
            return x
        room = self._rooms.get(number)
        if room is None or len(room) < len(x):
            room = self._rooms[number] = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        kept = self._kept[number] = room[: len(x)]
        # The memory of the one before is free once what is launched from here on waits for its copy: whoever launches
        # far ahead of the GPU would otherwise hold many of them.
        if self._going is not None:
            torch.cuda.current_stream().wait_event(self._going[1])
        self._copying.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copying):
            kept.copy_(x, non_blocking=True)
            self._going = (x, _recorded())
        return kept

    def send_for(self, number: int, device: torch.device) -> None:
        """Begin to copy it back."""
        if not self._gpu or number in self._coming:
            return
        kept = self._kept[number]
        back = torch.empty(kept.shape, dtype=kept.dtype, device=device)
        # The memory may still be in use by what was launched before on the stream that it was taken on.
        self._copying.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copying):
            back.copy_(kept, non_blocking=True)
            self._coming[number] = (back, _recorded())

    def take(self, number: int, device: torch.device) -> torch.Tensor:
        """Return it, on the device."""
        if not self._gpu:
            return self._kept.pop(number)
        self.send_for(number, device)
        back, came = self._coming.pop(number)
        torch.cuda.current_stream().wait_event(came)
        self._going = None  # its copy was launched before on the same stream
        del self._kept[number]
        return back


def _recorded() -> Any:  # noqa: ANN401 - PyTorch types none
    """Return an event at the end of what the current stream has been given."""
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call] # PyTorch's own
    event.record()
    return event
