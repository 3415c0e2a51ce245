"""The stage: raw files to a dataset.

map (blocks, in worker processes): read, clean, filter, describe → scratch files and arrays
reduce (arrays): duplicates, split, mixing → write, in the order of the input → report

Knows no transport and no store. The same input and spec give the same bytes, however many workers there are.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.artifacts import Kind, Manifest
from tunewright.chassis.errors import InvalidData
from tunewright.chassis.stage import Reporter, Severity
from tunewright.dataprep import audit as auditing
from tunewright.dataprep import features, rules, writing
from tunewright.dataprep.blocks import BLOCK_BYTES, Block, blocks
from tunewright.dataprep.contamination import matching
from tunewright.dataprep.contamination.reading import read_table
from tunewright.dataprep.deciding import Decisions, decide, find_near
from tunewright.dataprep.excerpts import Example, as_text, drop_example
from tunewright.dataprep.fingerprint import fingerprint
from tunewright.dataprep.furniture import repeated_in
from tunewright.dataprep.kinds import RowKind, kind_of_files, messages_of
from tunewright.dataprep.launching import Cluster, cluster_of, workers_of
from tunewright.dataprep.mapping import Job, Mapped, map_block
from tunewright.dataprep.pace import Pace
from tunewright.dataprep.page import render
from tunewright.dataprep.pool import Check, Forked, Here, Workers, processors
from tunewright.dataprep.readers import Layout, Source, examine
from tunewright.dataprep.report import build_report, to_json
from tunewright.dataprep.rows import Columns, Rows
from tunewright.dataprep.scratch import Scratch
from tunewright.dataprep.semantic.duplicates import finder
from tunewright.dataprep.shapes import Recognition, recognise
from tunewright.dataprep.spec import BASE, DataprepSpec, check_base
from tunewright.dataprep.tally import FileTally, Tally
from tunewright.dataprep.tokens import TokenCounter
from tunewright.dataprep.uploads import Files, find_files

TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
_METRICS = ("row_kind", "rows_in", "rows_out", "train_rows", "validation_rows", "dropped")
SMALL_BYTES = 8 << 20
"""Inputs up to this size are worked off in the stage's own process, before others would have started."""


def run(spec: DataprepSpec, inputs: Mapping[str, Path], output_dir: Path, report: Reporter) -> Manifest:
    """Prepare the files of all inputs; write train.jsonl, validation.jsonl, report.json and report.html.

    The input `base`, if there is one, is the model that will be trained: its tokenizer counts tokens.
    Where it is done (`launcher`, `workers`) does not count for what comes out.

    Raises:
        InvalidData: a file cannot be read, too many rows cannot, or no row is left; file, row and field are named.
        InvalidSpec: `sources` does not fit the inputs, or contradicts itself; tokens are to be judged without a base.
    """
    semantic = finder(spec.semantic)
    files = find_files(spec, {name: path for name, path in inputs.items() if name != BASE})
    counter = _counter(spec, inputs.get(BASE), report)
    _tell_files(files, report)
    looked = _all_recognised(files.train, report)
    seen = [recognition for _, recognition in looked]
    kind = kind_of_files(files.train, seen)
    tally = Tally([FileTally(source, seen, layout) for source, (layout, seen) in zip(files.train, looked, strict=True)])
    with Scratch(output_dir) as scratch, cluster_of(spec, report) as cluster:
        tests = read_table(files, spec, scratch.folder, report)
        repeated = repeated_in(files.train, seen) if kind is RowKind.TEXT and spec.cleaning.repeated_lines else {}
        job = Job(spec, files.train, seen, kind, scratch.folder, tests, counter, repeated)
        rows = _map(job, tally, report, cluster)
        tally.refuse_if_unreadable(spec.max_invalid_fraction)
        near = cluster.near if cluster else find_near
        check = report.raise_if_stopped
        found = decide(rows, spec, files.mixed_as, scratch.folder, check, near, semantic, held_out_files=files.held_out)
        _count_dropped(found, rows, tally)
        tally.refuse_if_nothing_left()
        if found.by_row:
            same = "are pieces of one document" if kind is RowKind.TEXT else "have the same question"
            text = f"All rows {same}: rows are divided instead, so the held-out loss says less"
            report.event("split_by_row", text, severity=Severity.WARNING)
        _write(rows, found, scratch.folder, report.raise_if_stopped)
        name = fingerprint(_digests(rows, found.copies), _digests(rows, found.validation.astype(np.int64)))
        document = build_report(spec, tally, rows, found, name, kind, tests)
        for file in (TRAIN, VALIDATION):  # only whole files ever stand in the output folder
            (scratch.folder / file).replace(output_dir / file)
        document["audit"] = _audit(spec, kind, counter, rows, found, output_dir, report)
    (output_dir / "report.json").write_bytes(to_json(document))
    (output_dir / "report.html").write_text(render(document), encoding="utf-8", newline="\n")
    metrics = {key: document[key] for key in _METRICS}
    report.event("prepared", _summary(metrics), **metrics)
    return Manifest(
        kind=Kind.DATASET,
        created_by="dataprep",
        spec=spec.canonical(),
        seed=spec.seed,
        metrics={**metrics, "fingerprint": name},
    )


def _counter(spec: DataprepSpec, base: Path | None, report: Reporter) -> TokenCounter | None:
    """Return what counts tokens as the base does, where anything depends on it.

    Raises:
        InvalidSpec: rows are to be filtered by tokens, and there is no base.
        InvalidData: likewise, and the base's tokenizer does not load.
    """
    check_base(spec, known=base is not None)
    if base is None or not spec.reads_base:
        return None
    try:
        return TokenCounter(base)
    except InvalidData as error:
        if spec.filters.by_tokens:
            raise
        report.event("not_audited", f"Tokens are not counted: {error.message}", severity=Severity.WARNING)
        return None


def _audit(
    spec: DataprepSpec,
    kind: RowKind,
    counter: TokenCounter | None,
    rows: Rows,
    found: Decisions,
    output_dir: Path,
    report: Reporter,
) -> dict[str, Any] | None:
    """Write audit.json, tell what it warns of, and return what the report shows of it."""
    if counter is None or not spec.audit.template:
        return None
    tokens = rows.facts.tokens
    name = report.runtime.get("manifests", {}).get(BASE, {}).get("base_model") or ""
    document = auditing.audit(
        auditing.Audited(
            name=name,
            kind=kind,
            sides={"train": output_dir / TRAIN, "validation": output_dir / VALIDATION},
            tokens={"train": np.repeat(tokens, found.copies), "validation": tokens[found.validation]},
            max_length=spec.audit.max_length,
        ),
        counter,
    )
    (output_dir / auditing.AUDIT_FILE).write_bytes(auditing.to_json(document))
    auditing.tell(document, report)
    return auditing.shown(document)


def _tell_files(files: Files, report: Reporter) -> None:
    if files.skipped:
        text = f"Left out, since their names end like no data file: {', '.join(files.skipped)}"
        report.event("files_skipped", text, severity=Severity.WARNING, files=files.skipped)
    if files.test:
        names = [source.name for source in files.test]
        report.event("test_sets", f"Kept out of the dataset, as test sets: {', '.join(names)}", files=names)


def _map(job: Job, tally: Tally, report: Reporter, cluster: Cluster | None) -> Rows:
    sources = job.sources
    pace = Pace(sum(source.size_bytes for source in sources), report)
    befores = np.cumsum([0, *(source.size_bytes for source in sources)]).tolist()
    mapping = cluster.mapping(job, int(befores[-1])) if cluster else _workers(job, int(befores[-1]), report)
    files = []
    found = blocks(sources, BLOCK_BYTES, [file.layout for file in tally.files])
    with mapping as workers, Columns(job.folder) as columns:
        for mapped in workers.ordered(found, report.raise_if_stopped):
            tally.add(mapped.block.file, mapped.counts)
            columns.add(mapped.facts)
            files.append(mapped.block.file)
            pace.tick(tally.rows_in, befores[mapped.block.file] + mapped.block.end)
    pace.finish(tally.rows_in)
    _tell_unreadable(tally, report)
    _tell_pieces(tally, report)
    return Rows(job.folder, columns, files, [source.name for source in sources])


def _workers(job: Job, total_bytes: int, report: Reporter) -> Workers[Block, Mapped]:
    function = partial(map_block, job=job)
    count = workers_of(job.spec, report) or processors()
    rules.warm()
    features.warm()
    if job.tests is not None:
        matching.warm(job.tests)
    if count == 1 or total_bytes <= SMALL_BYTES:
        return Here(function)
    return Forked(function, count)


def _all_recognised(sources: Sequence[Source], report: Reporter) -> list[tuple[Layout, Recognition]]:
    """Return what each file is; each that is nothing known is told, so that all are named at once.

    Raises:
        InvalidData: of one file or more nobody can say what its rows are.
    """
    looked, refused = [], []
    for source in sources:
        try:
            looked.append(_recognised(source, report))
        except InvalidData as error:
            refused.append(error)
            told = {"file": source.name, "why": error.message, "remedy": error.remedy}
            report.event("file_refused", f"{error.message}. {error.remedy}", severity=Severity.WARNING, **told)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        why = "; ".join(error.message for error in refused)
        raise InvalidData(
            f"{len(refused)} of {len(sources)} files are no data that is known: {why}",
            remedy=" ".join(dict.fromkeys(error.remedy for error in refused)),
            violations=[violation for error in refused for violation in error.violations],
        )
    return looked


def _recognised(source: Source, report: Reporter) -> tuple[Layout, Recognition]:
    layout = examine(source)
    seen = recognise(source, source.reading.format, layout)
    text = f"{source.name}: {layout.words()}; {seen.words()}"
    fields = list(seen.fields)
    report.event("format_recognised", text, file=source.name, layout=layout.words(), shape=seen.shape, fields=fields)
    return layout, seen


def _tell_unreadable(tally: Tally, report: Reporter) -> None:
    for file in tally.files:
        if file.unreadable:
            text = f"{file.source.name}: {file.unreadable:,} of {file.rows:,} rows cannot be read and are left out"
            found = tally.counts.violations
            places = [f"{v.field}: {v.description}" for v in found if v.field.startswith(file.source.name)]
            report.event("rows_unreadable", text, severity=Severity.WARNING, rows=file.unreadable, first=places)


def _tell_pieces(tally: Tally, report: Reporter) -> None:
    documents = pieces = 0
    for file in tally.files:
        whole = file.rows > 1 and file.recognition.is_document
        documents, pieces = documents + file.cut + whole, pieces + file.pieces + whole * file.rows
    if documents:
        limit = tally.files[0].source.reading.piece_chars
        text = f"{documents:,} documents of more than {limit:,} characters became {pieces:,} rows (reading.piece_chars)"
        report.event("documents_cut", text, documents=documents, rows=pieces)


def _count_dropped(found: Decisions, rows: Rows, tally: Tally) -> None:
    """Count the rows dropped because of others; the first of each reason are read for the report."""
    for reason, numbers in found.reasons.items():
        for number in numbers.tolist():
            if not tally.counts.wants_example(reason):
                break
            tally.counts.drop_examples.setdefault(reason, []).append(_example(number, found, rows))
        if len(numbers):
            tally.counts.dropped[reason] += len(numbers)


def _example(number: int, found: Decisions, rows: Rows) -> Example:
    row, kept = rows.read(number), int(found.kept_instead[number])
    place, text = row["source"], as_text(messages_of(row))
    if kept == number:
        return drop_example(place["file"], place["line"], "", text)
    twin = rows.read(kept)
    same = "same" if found.similarity[number] == 1 else f"{found.similarity[number]:.0%} the same"
    detail = f"{same} as {twin['source']['file']}:{twin['source']['line']}, which is kept"
    return drop_example(place["file"], place["line"], detail, text, as_text(messages_of(twin)))


def _write(rows: Rows, found: Decisions, folder: Path, check: Check) -> None:
    paths = folder / TRAIN, folder / VALIDATION
    if found.copies.max(initial=0) > 1:
        for path, copies in zip(paths, (found.copies, found.validation.astype(np.int64)), strict=True):
            writing.write(rows, copies, path, check)
    else:
        writing.write_sides(rows, found.train, found.validation, paths, check)


def _digests(rows: Rows, copies: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.repeat(rows.facts.digest, copies, axis=0)


def _summary(metrics: Mapping[str, Any]) -> str:
    dropped = metrics["dropped"]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items()) if dropped else "none"
    return (
        f"{metrics['rows_in']:,} rows in, {metrics['rows_out']:,} out ({metrics['train_rows']:,} to train on, "
        f"{metrics['validation_rows']:,} held out); dropped: {reasons}"
    )
