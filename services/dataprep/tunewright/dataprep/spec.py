"""What data preparation is asked to do. Field names are those of protos/tunewright/v1/dataprep.proto."""

from typing import Literal

from pydantic import Field

from tunewright.chassis.spec import Spec


class DataSource(Spec):
    """What is said of one upload, beside the file itself."""

    name: str = ""
    """Name under which the file is counted and mixed; its own if empty. Files of one name are one source."""


class Reading(Spec):
    """How files become rows."""


class Cleaning(Spec):
    """What is done to the texts of a row."""

    html: bool = True
    """Real HTML markup and entities are turned into text; code and comparisons such as `a < b` never are."""


class Filters(Spec):
    """Which rows are worth training on."""

    min_answer_chars: int = Field(default=1, ge=0)
    """Characters. Rows whose answers together are shorter are dropped; rows without any answer always are."""
    max_chars: int = Field(default=32_000, ge=1)
    """Characters. Rows whose messages together are longer are dropped."""


class Pii(Spec):
    """Personal data and secrets."""


class Duplicates(Spec):
    """Rows that say what another row says."""

    exact: bool = True
    """Of rows that say the same in other letters, spacing or final punctuation, only the best is kept."""


class Conflicts(Spec):
    """Rows with one question and different answers."""


class Contamination(Spec):
    """Rows that hold parts of a test set."""


class Split(Spec):
    """Which rows are held out."""

    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the kept rows that is held out for validation; 0 holds none out."""


class Mixing(Spec):
    """How many rows come from which source."""


class Audit(Spec):
    """How the rows look to the model."""


class DataprepSpec(Spec):
    """Settings of one preparation; the defaults are good for instruction tuning of small and middle-sized models."""

    format: Literal["auto", "instruction", "messages"] = "auto"
    """Shape of the rows: `instruction` (instruction/input/output or prompt/completion), `messages` (chat), or `auto`,
    which recognises the shape of each file and says what it saw."""
    system_prompt: str = ""
    """Put before each instruction row as a system message; none if empty."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Key of the hash that splits questions between training and validation."""
    max_invalid_fraction: float = Field(default=0.2, ge=0, le=1)
    """Share of unreadable rows above which the whole run is refused."""
    sources: tuple[DataSource, ...] = ()
    """What is said of each upload, in their order; none, or as many as uploads."""
    reading: Reading = Reading()
    cleaning: Cleaning = Cleaning()
    filters: Filters = Filters()
    pii: Pii = Pii()
    duplicates: Duplicates = Duplicates()
    conflicts: Conflicts = Conflicts()
    contamination: Contamination = Contamination()
    split: Split = Split()
    mixing: Mixing = Mixing()
    audit: Audit = Audit()
