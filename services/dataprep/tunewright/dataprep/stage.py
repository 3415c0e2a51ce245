"""The stage: raw files to a dataset. Two passes: read, clean and filter into a scratch file; then keep, split, write.

Knows no transport and no store. One process; the same input and spec give the same bytes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.stage import Reporter, Severity
from tunewright.dataprep.dedup import Duplicates
from tunewright.dataprep.fingerprint import fingerprint
from tunewright.dataprep.pace import Pace
from tunewright.dataprep.page import render
from tunewright.dataprep.preparing import as_text, prepare
from tunewright.dataprep.reading import Source, find_sources
from tunewright.dataprep.report import build_report, to_json
from tunewright.dataprep.rows import RowStore
from tunewright.dataprep.shapes import recognise
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.splitting import held_out, place
from tunewright.dataprep.tally import DUPLICATE, Tally, drop_example

TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"


@dataclass(frozen=True, slots=True)
class Sides:
    """Numbers of the rows on both sides, in order."""

    train: list[int]
    validation: list[int]
    by_row: bool
    """True if all rows have one question, so that rows had to be divided instead of questions."""


def run(spec: DataprepSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Prepare the files of all inputs; write train.jsonl, validation.jsonl, report.json and report.html.

    Raises:
        InvalidData: a file cannot be read, too many rows cannot, or no row is left; file, row and field are named.
    """
    sources = find_sources(inputs)
    tally = Tally()
    with RowStore(output_dir) as rows:
        duplicates = _read(sources, spec, rows, tally, report)
        tally.refuse_if_unreadable(spec.max_invalid_fraction)
        dropped = duplicates.kept_instead() if spec.duplicates.exact else {}
        _count_duplicates(dropped, rows, tally)
        tally.refuse_if_nothing_left()
        sides = _split(rows, dropped, spec, report)
        _write(rows, sides, output_dir, report)
        name = fingerprint(map(rows.digest, sides.train), map(rows.digest, sides.validation))
        document = build_report(spec, tally, rows, sides.train, sides.validation, by_row=sides.by_row, fingerprint=name)
    (output_dir / "report.json").write_bytes(to_json(document))
    (output_dir / "report.html").write_text(render(document), encoding="utf-8", newline="\n")
    metrics = {key: document[key] for key in ("rows_in", "rows_out", "train_rows", "validation_rows", "dropped")}
    report.event("prepared", _summary(tally, sides), **metrics)
    return Manifest(
        kind=Kind.DATASET,
        created_by="dataprep",
        spec=spec.canonical(),
        seed=spec.seed,
        metrics={**metrics, "fingerprint": name},
    )


def _read(sources: list[Source], spec: DataprepSpec, rows: RowStore, tally: Tally, report: Reporter) -> Duplicates:
    shapes = [(source, recognise(source, spec.format)) for source in sources]
    duplicates = Duplicates()
    pace = Pace(sum(source.size_bytes for source in sources), report)
    for source, seen in shapes:
        text = f"{source.name}: {seen.shape} rows with the fields {', '.join(seen.fields)}"
        report.event("format_recognised", text, file=source.name, shape=seen.shape, fields=list(seen.fields))
        tally.begin(source, seen)
        for line, row in prepare(source, seen.shape, spec, tally):
            if row is not None:
                rows.add(row)
                duplicates.add(row.identity, row.worth)
            pace.tick(tally.rows_in, line.end_offset)
        pace.file_done(source.size_bytes)
    pace.finish(tally.rows_in)
    _tell_unreadable(tally, report)
    return duplicates


def _tell_unreadable(tally: Tally, report: Reporter) -> None:
    for file in tally.files:
        if file.unreadable:
            text = f"{file.source.name}: {file.unreadable:,} of {file.rows:,} rows cannot be read and are left out"
            places = [f"{v.field}: {v.description}" for v in tally.violations if v.field.startswith(file.source.name)]
            report.event("rows_unreadable", text, severity=Severity.WARNING, rows=file.unreadable, first=places)


def _count_duplicates(dropped: Mapping[int, int], rows: RowStore, tally: Tally) -> None:
    for number, kept in dropped.items():
        if tally.wants_example(DUPLICATE):
            row, twin = rows.read(number), rows.read(kept)
            where = f"{twin['source']['file']}:{twin['source']['line']}"
            detail = f"same as {where}, which is kept"
            file, line = row["source"]["file"], row["source"]["line"]
            example = drop_example(file, line, detail, as_text(row["messages"]), as_text(twin["messages"]))
            tally.drop(DUPLICATE, example)
        else:
            tally.drop(DUPLICATE)


def _split(rows: RowStore, dropped: Collection[int], spec: DataprepSpec, report: Reporter) -> Sides:
    kept = [number for number in range(len(rows)) if number not in dropped]
    places = [rows.questions[number] for number in kept]
    by_row = spec.split.validation_fraction > 0 and len(kept) > 1 and len(set(places)) == 1
    if by_row:
        text = "All rows have the same question: rows are divided instead, so the held-out loss says less"
        report.event("split_by_row", text, severity=Severity.WARNING)
        places = [place(rows.digest(number), spec.seed) for number in kept]
    out = held_out(places, spec.split.validation_fraction)
    train = [number for number, where in zip(kept, places, strict=True) if where not in out]
    validation = [number for number, where in zip(kept, places, strict=True) if where in out]
    return Sides(train, validation, by_row)


def _write(rows: RowStore, sides: Sides, output_dir: Path, report: Reporter) -> None:
    """Copy the lines of kept rows to their side, in the order of the input."""
    side = bytearray(len(rows))
    for mark, numbers in ((1, sides.train), (2, sides.validation)):
        for number in numbers:
            side[number] = mark
    with (output_dir / TRAIN).open("wb") as train, (output_dir / VALIDATION).open("wb") as validation:
        files = (None, train, validation)
        for mark, line in zip(side, rows.lines(), strict=True):
            if (file := files[mark]) is not None:
                file.write(line)
    report.raise_if_stopped()


def _summary(tally: Tally, sides: Sides) -> str:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in tally.by_reason().items()) or "none"
    return (
        f"{tally.rows_in:,} rows in, {tally.rows_out:,} out ({len(sides.train):,} to train on, "
        f"{len(sides.validation):,} held out); dropped: {reasons}"
    )
