"""What a run would take place on: how much memory, which compute type. Asks nobody; knows no model."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Machine:
    """A GPU, or a machine without one."""

    type: Literal["cuda", "cpu"]
    name: str
    """Of the card, as the driver says it; empty if only its memory is known."""
    memory: int
    """Bytes of VRAM, or of RAM, that a run may take."""
    each: int
    """Bytes of a value in the compute type: 2 for bfloat16 and float16, 4 for float32."""
    flops: float = 0.0
    """Of a matrix product on this CPU, a second, measured here; 0: not measured."""
    count: int = 1
    """GPUs of this kind, of which each process takes one."""
    host: int = 0
    """Bytes of RAM that a run on the GPU may take; 0: not known."""
