"""How the base was quantised while the adapter was trained, by the adapter's manifest. Does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tunewright.chassis.errors import Refused


@dataclass(frozen=True, slots=True)
class Quantization:
    """bitsandbytes' 4-bit settings that the weights' values depend on."""

    quant_type: str
    """nf4 or fp4."""
    double_quant: bool
    """The blocks' scales are quantised, too."""
    dtype: str
    """What the weights were read as, and are dequantised to: bfloat16, float16 or float32."""

    @classmethod
    def read(cls, settings: Mapping[str, Any] | None) -> Self | None:
        """Return the settings in an adapter's manifest, None if it was trained on full precision.

        Raises:
            Refused: the base was quantised in a way that this merge cannot repeat.
        """
        if not settings:
            return None
        if settings.get("quant_method") != "bitsandbytes" or not settings.get("load_in_4bit"):
            raise Refused(
                f"the adapter was trained on a base quantised as {dict(settings)}; only bitsandbytes' 4 bits can be "
                "repeated to compare with",
                remedy="Train the adapter by method qlora or lora.",
            )
        return cls(
            str(settings["bnb_4bit_quant_type"]),
            bool(settings["bnb_4bit_use_double_quant"]),
            str(settings["bnb_4bit_compute_dtype"]),
        )
