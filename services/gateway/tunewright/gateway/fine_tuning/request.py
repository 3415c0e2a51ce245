"""What a fine-tuning job may ask for: OpenAI's fields, each checked by its own name. Knows no recipe and no room."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

AUTO = "auto"
_SUFFIX = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,62}[A-Za-z0-9])?")
_MAX_EPOCHS, _MAX_BATCH, _MAX_BETA = 50, 256, 2


def _whole(most: int) -> PlainValidator:
    def check(value: object) -> int | str:
        """Return the number, or AUTO where none is asked for."""
        if value is None or value == AUTO:
            return AUTO
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"'auto' or a whole number from 1 to {most} is expected, found {value!r:.40}")
        return value

    return PlainValidator(check)


def _number(most: float | None) -> PlainValidator:
    def check(value: object) -> float | str:
        """Return the number, or AUTO where none is asked for."""
        if value is None or value == AUTO:
            return AUTO
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < float(str(value)) <= (most or float("1e6")):
            wanted = "a number above 0" if most is None else f"a number above 0 and up to {most:g}"
            raise ValueError(f"'auto' or {wanted} is expected, found {value!r:.40}")
        return float(str(value))

    return PlainValidator(check)


def _schema(kind: str, **bounds: float) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"const": AUTO, "type": "string"}, {"type": kind, **bounds}, {"type": "null"}]})


Epochs = Annotated[int | str, _whole(_MAX_EPOCHS), _schema("integer", minimum=1, maximum=_MAX_EPOCHS)]
Batch = Annotated[int | str, _whole(_MAX_BATCH), _schema("integer", minimum=1, maximum=_MAX_BATCH)]
Multiplier = Annotated[float | str, _number(None), _schema("number", exclusiveMinimum=0)]
Beta = Annotated[float | str, _number(_MAX_BETA), _schema("number", exclusiveMinimum=0, maximum=_MAX_BETA)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Hyperparameters(_Strict):
    """Of supervised tuning; "auto" leaves the choice to us."""

    n_epochs: Epochs = AUTO
    batch_size: Batch = AUTO
    """Rows of one optimizer step."""
    learning_rate_multiplier: Multiplier = AUTO
    """Times the rate that fits the method."""


class DpoHyperparameters(Hyperparameters):
    """Of preference tuning."""

    beta: Beta = AUTO
    """How strongly the model is held to the base."""


class Supervised(_Strict):
    """The supervised method."""

    hyperparameters: Hyperparameters | None = None


class Dpo(_Strict):
    """Direct preference optimisation."""

    hyperparameters: DpoHyperparameters | None = None


class Method(_Strict):
    """How to tune."""

    type: Literal["supervised", "dpo"]
    supervised: Supervised | None = None
    dpo: Dpo | None = None
    hyperparameters: DpoHyperparameters | None = None
    """The method's, in a shorter form."""

    @model_validator(mode="after")
    def _speaks_of_itself(self) -> Self:
        other = self.dpo if self.type == "supervised" else self.supervised
        if other is not None:
            raise ValueError(f"the type is {self.type!r}, so settings of the other method are not expected")
        own = self.supervised if self.type == "supervised" else self.dpo
        if own is not None and own.hyperparameters is not None and self.hyperparameters is not None:
            raise ValueError(f"hyperparameters stand twice: here and in {self.type!r}; give them once")
        if self.type == "supervised" and self.hyperparameters and "beta" in self.hyperparameters.model_fields_set:
            raise ValueError("hyperparameters.beta belongs to the type 'dpo'")
        return self

    @property
    def settings(self) -> Hyperparameters:
        """The method's hyperparameters."""
        own = self.supervised if self.type == "supervised" else self.dpo
        found = (own.hyperparameters if own is not None else None) or self.hyperparameters
        return found or (Hyperparameters() if self.type == "supervised" else DpoHyperparameters())


class Extension(_Strict):
    """What only Tunewright knows."""

    recipe: dict[str, Any] = Field(default_factory=dict)
    """Sections of a recipe (dataprep, training, merging, evaluation, deployment) that the job's own settings do not
    cover."""


def _suffix(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not _SUFFIX.fullmatch(value):
        raise ValueError(f"1 to 64 letters, digits, spaces, `.`, `-` or `_` are expected, found {value!r:.80}")
    return value.lower().replace(" ", "-")


def _no_integration(value: object) -> list[Any]:
    if value is None or value == []:
        return []
    names = [str(item.get("type")) for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    raise ValueError(
        f"{', '.join(names) or 'this'} is not offered to single jobs: the trainer reports every run to the tracker "
        "that its TUNEWRIGHT_REPORT_TO names. Leave integrations out"
    )


Key = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class CreateJob(_Strict):
    """What starts a job."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    """The base: a served base or tuned model, a hub id, a folder below the import root, or models/<sha256>."""
    training_file: Annotated[str, Field(min_length=1, max_length=128)]
    validation_file: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Held-out rows; without one a tenth of the training file is held out."""
    suffix: Annotated[
        str | None, PlainValidator(_suffix), WithJsonSchema({"anyOf": [
            {"type": "string", "minLength": 1, "maxLength": 64}, {"type": "null"},
        ]}),
    ] = None  # fmt: skip
    """Part of the tuned model's name."""
    seed: Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)] | None = None
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    integrations: Annotated[list[Any] | None, BeforeValidator(_no_integration)] = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    """The older form; supervised tuning."""
    tunewright: Extension | None = None

    @model_validator(mode="after")
    def _says_it_once(self) -> Self:
        if self.method is not None and self.hyperparameters is not None:
            if self.method.settings.model_fields_set and self.method.settings != self.hyperparameters:
                raise ValueError("hyperparameters stand twice: at the top and in `method`; give them once")
            if self.method.type != "supervised":
                raise ValueError("hyperparameters at the top are those of supervised tuning; put them into `method`")
        if self.validation_file is not None and self.validation_file == self.training_file:
            raise ValueError("validation_file is the training file: rows cannot be trained on and held out")
        return self

    @property
    def kind(self) -> Literal["supervised", "dpo"]:
        """The method's type."""
        return "supervised" if self.method is None else self.method.type

    @property
    def settings(self) -> Hyperparameters:
        """The hyperparameters, wherever they stand."""
        if self.hyperparameters is not None:
            return self.hyperparameters
        return Hyperparameters() if self.method is None else self.method.settings
