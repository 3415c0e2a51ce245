"""What an evaluation is asked to do. Knows nothing of endpoints."""

from pydantic import Field

from tunewright.chassis.spec import Spec


class EvaluationSpec(Spec):
    """Base against tuned on held-out rows."""

    max_rows: int = Field(default=256, ge=0, le=1_000_000)
    """Held-out rows at most, in order of their id, which is a hash; 0 stands for all."""
    sample_count: int = Field(default=8, ge=0, le=10_000)
    """Rows, the first in that order, that both models also answer freely; kept side by side in the report."""
    max_new_tokens: int = Field(default=128, ge=1, le=32_768)
    """Tokens of each free answer at most."""
    concurrency: int = Field(default=8, ge=1, le=1024)
    """Rows under way at once."""
