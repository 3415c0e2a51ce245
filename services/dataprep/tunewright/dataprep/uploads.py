"""The files of a run, and what was said of each: how it is read, under which name it is mixed, what it is used for.

Knows file names, opens no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.dataprep.readers import Reading, Source, find_sources
from tunewright.dataprep.spec import DataprepSpec, DataSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of a run."""

    train: list[Source]
    """Those whose rows become the dataset, in order of input and path."""
    mixed_as: list[tuple[str, float]]
    """Of each of them: the name under which it is mixed, and its weight."""
    held_out: list[bool]
    """Of each of them: whether its rows are the ones that are held out. All False: `split` chooses."""
    test: list[Source]
    """Test sets: none of their rows enters the dataset."""
    test_names: list[str]
    """Of each of them: the name of the set; files of one name are one set."""
    skipped: list[str]
    """Names of files in folders that are no data by their ending, or are hidden."""


def find_files(spec: DataprepSpec, inputs: Mapping[str, Path]) -> Files:
    """Return the files of all inputs (name → a file, or a folder).

    Raises:
        InvalidData: an input does not exist, or holds no data file.
        InvalidSpec: `sources` does not fit the inputs, leaves none to train on, or contradicts itself.
    """
    said = _said(spec, inputs)
    found = find_sources(inputs, {name: reading(spec, source) for name, source in said.items()})
    train = [source for source in found.sources if said[source.input].use != "test"]
    mixed_as = [(said[source.input].name or source.name, said[source.input].weight) for source in train]
    _check_weights(mixed_as)
    held_out = [said[source.input].use == "validation" for source in train]
    test = [source for source in found.sources if said[source.input].use == "test"]
    test_names = [said[source.input].name or source.name for source in test]
    return Files(
        train=train, mixed_as=mixed_as, held_out=held_out, test=test, test_names=test_names, skipped=found.skipped
    )


def reading(spec: DataprepSpec, source: DataSource) -> Reading:
    """Return how a file is read: as the spec says, and as is said of itself."""
    return Reading(
        format=source.format or spec.format,
        fields=tuple(sorted(source.fields.items())),
        encoding=spec.reading.encoding,
        delimiter=spec.reading.delimiter,
        piece_chars=min(spec.reading.piece_chars, spec.filters.max_chars),
    )


def _said(spec: DataprepSpec, inputs: Mapping[str, Path]) -> dict[str, DataSource]:
    """Return input → what is said of it."""
    if spec.sources and len(spec.sources) != len(inputs):
        text = f"{len(spec.sources)} entries for {len(inputs)} uploads; one each is expected, in their order"
        raise InvalidSpec(f"sources: {text}", violations=[Violation("sources", text)])
    if spec.sources and all(source.use != "train" for source in spec.sources):
        kinds = "every file is a test set" if all(s.use == "test" for s in spec.sources) else "no file is trained on"
        text = f"{kinds}; at least one with `use: train` is expected"
        raise InvalidSpec(f"sources: {text}", violations=[Violation("sources.0.use", text)])
    for number, source in enumerate(spec.sources):
        if source.use != "train" and source.weight:
            text = f"a {source.use} set is not mixed in, so it has no weight"
            raise InvalidSpec(f"sources.{number}: {text}", violations=[Violation(f"sources.{number}.weight", text)])
    return dict(zip(sorted(inputs), spec.sources or [DataSource()] * len(inputs), strict=True))


def _check_weights(mixed_as: list[tuple[str, float]]) -> None:
    weights: dict[str, float] = {}
    for name, weight in mixed_as:
        if weights.setdefault(name, weight) != weight:
            text = f"source {name} has the weights {weights[name]:g} and {weight:g}; files of one name have one weight"
            raise InvalidSpec(text, violations=[Violation("sources", text)])
