"""What data preparation is asked to do. Field names are those of protos/tunewright/v1/dataprep.proto."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.chassis.spec import Spec
from tunewright.dataprep.encodings import codec_of

BASE = "base"
"""Name of the input that holds the base; all others are uploads."""
BASE_FILES = ("config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "chat_template.jinja")
"""Shell patterns of the files of a base that are read; the weights are not."""

Format = Literal["auto", "instruction", "prompt_completion", "messages", "sharegpt", "text", "preference"]
FieldName = Literal[
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "messages",
    "conversations",
    "system",
    "text",
    "chosen",
    "rejected",
]


class DataSource(Spec):
    """What is said of one upload, beside the file itself."""

    name: str = ""
    """Name under which the file is counted and mixed; its own if empty. Files of one name are one source."""
    weight: float = Field(default=0.0, ge=0)
    """Share of the training rows, on any scale: 8 and 2, or 0.8 and 0.2. If any file has one, files without are left
    out."""
    use: Literal["train", "validation", "test"] = "train"
    """`train`: its rows become the dataset. `validation`: its rows, and no others, are held out; `split` then has
    nothing to do. `test`: a test set; none of its rows enters the dataset, and rows
    that hold what stands in it are dropped; see `contamination`."""
    format: Format | None = None
    """Shape of this file's rows; as `dataprep.format` says if not given."""
    fields: dict[FieldName, str] = Field(default_factory=dict)
    """Our name of a field → the file's, such as `{instruction: question, output: data.answer}`; a dot leads into an
    object. Fields that have our names need no line."""


class Reading(Spec):
    """How files are read. What is not said here is recognised, and told for each file."""

    encoding: str = "auto"
    """Encoding of the files' text, such as `GB18030` or `CP1252`; `auto` recognises it, or refuses what is not sure."""
    delimiter: str = Field(default="auto", pattern=r"^(auto|tab|[^\r\n\"])$")
    """What stands between the columns of CSV: one character, or `tab`; `auto` recognises it."""
    piece_chars: int = Field(default=8_000, ge=200)
    """Characters. Longer documents are cut into pieces of at most as many (and of `filters.max_chars`, if that is
    less), at blank lines, else at lines, sentences or words. Pieces of one document, and of one text or HTML file, are
    held out together or not at all."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            codec_of("UTF-8" if name == "auto" else name)
        except LookupError as error:
            text = f"{name!r} is no encoding; one such as UTF-8, GB18030, Big5, Shift-JIS or CP1252 is expected"
            raise ValueError(text) from error
        return name


class Cleaning(Spec):
    """What is done to the texts of a row. Markdown code stays to the last character, but for control characters."""

    html: bool = True
    """Real HTML markup and entities are turned into text; code and comparisons such as `a < b` never are."""
    line_endings: bool = True
    """Carriage returns, form feeds and Unicode's line separators become line breaks."""
    control_characters: bool = True
    """Control characters are removed; stray Windows-1252 punctuation is restored."""
    invisible_characters: bool = True
    """Zero-width characters and soft hyphens are removed; joiners of letters and emoji stay."""
    mojibake: bool = True
    """Text that was decoded with the wrong encoding is decoded rightly where nothing was lost, Chinese too."""
    unicode: Literal["nfc", "nfkc", "none"] = "nfc"
    """Form of characters: composed (`nfc`), composed and compatible (`nfkc`: ﬁ becomes fi), or as they are."""
    trailing_space: bool = True
    """Spaces at line ends are removed."""
    outer_space: bool = True
    """Blank lines and spaces around a message are removed."""
    boilerplate_lines: bool = True
    """Lines of web pages' furniture at an answer's beginning or end are removed, unless the question is about such."""
    repeated_lines: bool = True
    """Blocks of short lines that many documents of one upload begin or end with (menus, banners) are removed; rows of
    conversations and pairs are not looked at."""


class Filters(Spec):
    """Which rows are worth training on."""

    min_answer_chars: int = Field(default=1, ge=0)
    """Characters. Rows whose answers together are shorter are dropped; rows without any answer always are."""
    max_chars: int = Field(default=32_000, ge=1)
    """Characters. Rows whose messages together are longer are dropped."""
    min_tokens: int = Field(default=0, ge=0)
    """Tokens of the base, its chat template included. Rows with fewer are dropped; 0 drops none."""
    max_tokens: int = Field(default=0, ge=0)
    """Tokens of the base, its chat template included. Rows with more are dropped; 0 drops none."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes, such as `en` and `zh`. Rows with an answer surely in another language are
    dropped; empty drops none."""
    repetition: bool = True
    """Rows whose answer goes round in a loop, or says much of itself twice, are dropped; limits in repetition.py."""
    boilerplate: bool = True
    """Rows whose answer is mostly a web page's furniture are dropped."""
    refusals: bool = True
    """Rows whose answer refuses in an assistant's words (As an AI language model …) are dropped."""
    garbled: bool = True
    """Rows whose answer has characters lost in a wrong conversion are dropped."""
    min_quality: float = Field(default=0.0, ge=0, le=1)
    """Score of form, 0 to 1, below which rows are dropped; its method stands in quality.py. 0 drops none."""

    @model_validator(mode="after")
    def _some_fit(self) -> Self:
        if 0 < self.max_tokens < self.min_tokens:
            raise ValueError(f"no row has at least {self.min_tokens} tokens and at most {self.max_tokens}")
        return self

    @property
    def by_tokens(self) -> bool:
        """Whether rows are judged by their tokens."""
        return bool(self.min_tokens or self.max_tokens)


Handling = Literal["mask", "drop", "keep"]


class Pii(Spec):
    """Personal data and secrets: a placeholder in their place (`mask`), the row dropped (`drop`), or left (`keep`)."""

    emails: Handling = "mask"
    """E-mail addresses; those of example.com and its like are nobody's."""
    phones: Handling = "mask"
    """Phone numbers: international, Chinese, North American, and others that are called so."""
    cards: Handling = "mask"
    """Payment cards by Luhn's checksum."""
    ibans: Handling = "mask"
    """Bank accounts by checksum."""
    national_ids: Handling = "mask"
    """Identity numbers: China's by checksum, the United States' by its plan."""
    secrets: Handling = "mask"
    """API keys, tokens, private keys, passwords in URLs."""


class Duplicates(Spec):
    """Rows that say what another row says."""

    exact: bool = True
    """Of rows that say the same in other letters, spacing or final punctuation, only the best is kept."""
    near: bool = True
    """Of rows that say nearly the same, only the best is kept; each pair is verified."""
    threshold: float = Field(default=0.8, ge=0.5, le=1)
    """Jaccard similarity of two rows' shingles from which they are near-duplicates."""
    permutations: int = Field(default=128, ge=16, le=1024)
    """Places of the sketch by which rows are found that may be similar; more find more of those near the threshold."""
    shingle: int = Field(default=5, ge=1, le=50)
    """Words in a shingle; of scripts without spaces between words, characters."""


class Semantic(Spec):
    """Rows that say the same in other words, by a local model of static embeddings; off unless a model is named."""

    model: str = ""
    """Folder of the model below the service's TUNEWRIGHT_EMBEDDING_ROOT, as model2vec saves it: tokenizer.json and one
    safetensors file. Empty: such rows are not looked for."""
    threshold: float = Field(default=0.95, gt=0, le=1)
    """Cosine from which the questions of two rows, and their answers, say the same. Of such rows only the best is
    kept. What is right hangs on the model: look at the examples in the report."""
    digest: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """SHA-256 of the model's files, so that a run names what made it; the service fills it in, and refuses another."""


class Conflicts(Spec):
    """Rows with one question and different answers."""

    action: Literal["report", "drop", "keep_best"] = "report"
    """Such rows are shown in the report, all dropped, or dropped but for the worthiest of each question."""


class Contamination(Spec):
    """Training rows that hold what stands in the test sets: files with `use: test` among the sources."""

    action: Literal["drop", "flag", "off"] = "drop"
    """Such rows are dropped, kept and marked with `contaminated`, or not looked for."""
    ngram: int = Field(default=13, ge=5, le=50)
    """Words in an n-gram; of scripts without spaces between words twice as many characters."""
    min_overlap: float = Field(default=0.5, gt=0, le=1)
    """Share of the n-grams of a test row's message that stand in a training row, from which it is contaminated. A
    whole question that is equal always counts (of fewer than 5 words only with its answer)."""


class Split(Spec):
    """Which rows are held out."""

    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the kept rows that is held out for validation; 0 holds none out."""
    by: str = Field(default="cluster", min_length=1)
    """What never lies on both sides: `cluster` (rows with one question, and what is linked to them as near-duplicates),
    `question`, or a field of the raw rows, by its value."""
    stratify_by: str = ""
    """A field of the raw rows; the share held out is kept for each of its values. None if empty."""


class Mixing(Spec):
    """How many training rows come from which source, where sources have a weight."""

    total_rows: int = Field(default=0, ge=0)
    """Training rows in all, repeats counted; 0 stands for as many as max_repeats allows."""
    max_repeats: int = Field(default=1, ge=1, le=100)
    """How often one row may stand among the training rows: 1 takes fewer of large sources, more repeats small ones."""


class Audit(Spec):
    """How the dataset looks to the base that will be trained: token counts, what is cut, what is learned."""

    template: bool = True
    """The base's tokenizer and chat template are tried on the rows; audit.json and the report tell what came of
    it. Without it the dataset does not depend on the base, unless rows are filtered by tokens."""
    max_length: int = Field(default=1024, ge=8, le=1_048_576)
    """Tokens a row may have in training; a recipe's `training.max_length` if not given."""


class DataprepSpec(Spec):
    """Settings of one preparation; the defaults are good for instruction tuning of small and middle-sized models."""

    format: Format = "auto"
    """Shape of the rows. `instruction` (instruction, input, output; or prompt and completion), `prompt_completion`,
    `messages` and `sharegpt` become conversations, for supervised training; `text` becomes documents, for continued
    pre-training; `preference` (prompt, chosen, rejected) pairs of answers, for DPO. `auto` recognises the shape of each
    file and says what it saw."""
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
    semantic: Semantic = Semantic()
    conflicts: Conflicts = Conflicts()
    contamination: Contamination = Contamination()
    split: Split = Split()
    mixing: Mixing = Mixing()
    audit: Audit = Audit()
    launcher: Literal["local", "ray"] = Field(default="local", exclude=True)
    """Where the work is done: by processes of the service's machine (`local`), or on the Ray cluster that the service
    was told of (`ray`). The dataset is the same to the last byte, so this does not count for its identity."""
    workers: int = Field(default=0, ge=0, le=4096, exclude=True)
    """Processes (`local`) or tasks at once (`ray`); 0 stands for as many as there are processors. Does not count for
    the dataset's identity."""

    @property
    def reads_base(self) -> bool:
        """Whether the base's tokenizer has a part in what comes out."""
        return self.audit.template or self.filters.by_tokens


def check_base(spec: DataprepSpec, *, known: bool) -> None:
    """Check that rows are filtered by tokens only where a base is known.

    Raises:
        InvalidSpec: they are to be, and none is.
    """
    if spec.filters.by_tokens and not known:
        names = [name for name in ("min_tokens", "max_tokens") if getattr(spec.filters, name)]
        why = "tokens are counted by the base's own tokenizer, and no base is given"
        raise InvalidSpec(
            f"filters.{names[0]}: {why}",
            remedy="Give the base (`base_model` in a recipe, `--input base=FOLDER` for the stage alone), or filter by "
            "min_answer_chars and max_chars.",
            violations=[Violation(f"filters.{name}", why) for name in names],
        )
