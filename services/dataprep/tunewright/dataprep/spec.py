"""What data preparation is asked to do. Field names are those of protos/tunewright/v1/dataprep.proto."""

from typing import Literal

from pydantic import Field

from tunewright.chassis.spec import Spec


class DataprepSpec(Spec):
    """Settings of one preparation; the defaults are good for instruction tuning of small and middle-sized models."""

    format: Literal["auto", "instruction", "messages"] = "auto"
    """Shape of the rows: `instruction` (instruction/input/output or prompt/completion), `messages` (chat), or `auto`,
    which recognises the shape of each file and says what it saw."""
    system_prompt: str = ""
    """Put before each instruction row as a system message; none if empty."""
    min_answer_chars: int = Field(default=1, ge=0)
    """Characters. Rows whose answers together are shorter are dropped; rows without any answer always are."""
    max_chars: int = Field(default=32_000, ge=1)
    """Characters. Rows whose messages together are longer are dropped."""
    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the kept rows that is held out for validation; 0 holds none out."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Key of the hash that splits questions between training and validation."""
    strip_html: bool = True
    """Real HTML markup and entities are turned into text; code and comparisons such as `a < b` never are."""
    deduplicate: bool = True
    """Of rows that say the same in other letters, spacing or final punctuation, only the best is kept."""
    max_invalid_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of unreadable rows above which the whole run is refused."""
