"""The figures of a run as one JSON document, the same bytes for the same run. Its keys stand in docs/data.md.

Knows nothing of HTML.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from tunewright.dataprep import exhibits
from tunewright.dataprep.contamination.table import Table
from tunewright.dataprep.deciding import Decisions
from tunewright.dataprep.dedup import KEEP_RULE
from tunewright.dataprep.excerpts import excerpt
from tunewright.dataprep.histograms import summary
from tunewright.dataprep.kinds import RowKind
from tunewright.dataprep.pii.finding import KINDS
from tunewright.dataprep.pii.masking import WORDS as PII_WORDS
from tunewright.dataprep.rows import Rows
from tunewright.dataprep.rules import RULE_WORDS
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.tally import (
    CONFLICT,
    CONTAMINATED,
    DUPLICATE,
    GLOBAL,
    NEAR_DUPLICATE,
    NOT_MIXED,
    REASONS,
    REMEDIES,
    SEMANTIC_DUPLICATE,
    UNFIT,
    UNREADABLE,
    FileTally,
    Tally,
)

SCHEMA_VERSION = 2
_MOST_FILES, _MOST_FIELDS, _NAME_CHARS = 200, 40, 80
_SETTINGS = {
    **dict.fromkeys(UNREADABLE, "max_invalid_fraction"),
    "answer_too_short": "filters.min_answer_chars",
    "too_long": "filters.max_chars",
    "not_rendered": "filters.min_tokens",
    "too_few_tokens": "filters.min_tokens",
    "too_many_tokens": "filters.max_tokens",
    "garbled": "filters.garbled",
    "boilerplate": "filters.boilerplate",
    "refusal": "filters.refusals",
    "repetition": "filters.repetition",
    "language": "filters.languages",
    "low_quality": "filters.min_quality",
    CONTAMINATED: "contamination.min_overlap",
    DUPLICATE: "duplicates.exact",
    NEAR_DUPLICATE: "duplicates.threshold",
    SEMANTIC_DUPLICATE: "semantic.threshold",
    CONFLICT: "conflicts.action",
    NOT_MIXED: "mixing.total_rows",
    **{f"pii_{kind}": f"pii.{kind}" for kind in KINDS},
}
"""Reason or rule → the setting that it goes by, where it does not go by `cleaning` of its own name."""


def build_report(
    spec: DataprepSpec,
    tally: Tally,
    rows: Rows,
    found: Decisions,
    fingerprint: str,
    kind: RowKind,
    tests: Table | None = None,
) -> dict[str, Any]:
    """Return the report; `tests` are the test sets that rows were compared with."""
    kept = np.flatnonzero(found.alive)
    by_file = np.bincount(rows.files[kept], minlength=len(tally.files)).tolist()
    _, groups = np.unique(rows.facts.question[kept], return_counts=True)
    counts, settings = tally.counts, spec.canonical()
    reasons, rules = tally.by_reason(), tally.by_rule()
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "row_kind": kind.value,
        "spec": settings,
        "rows_in": tally.rows_in,
        "rows_out": len(kept),
        "train_rows": int(found.copies.sum()),
        "validation_rows": int(found.validation.sum()),
        "repeated_rows": int(found.copies.sum()) - int(found.train.sum()),
        "dropped": reasons,
        "changed": rules,
        "changed_rows": counts.changed_rows,
        "masked": dict(sorted(counts.masked.items())),
        "markup_left_rows": counts.markup_left,
        "questions": len(groups),
        "rows_sharing_a_question": int(groups[groups > 1].sum()),
        "funnel": _funnel(tally),
        "file_count": len(tally.files),
        "files": [_file(file, by_file[number]) for number, file in enumerate(tally.files[:_MOST_FILES])],
        "unreadable": _unreadable(tally),
        "lengths": _lengths(rows, kept, tally),
        "languages": exhibits.languages_of(rows, kept),
        "near_duplicates": exhibits.near_duplicates(rows, found),
        "contamination": _contamination(spec, tally, tests),
        "conflicts": {"action": spec.conflicts.action, **exhibits.conflicts(rows, found)},
        "split": _split(spec, found),
        "mixing": [
            {"source": s.source, "weight": s.weight, "available": s.available, "taken": s.taken, "used": s.used}
            for s in found.shares
        ],
        "drop_examples": {reason: counts.drop_examples.get(reason, []) for reason in reasons},
        "change_examples": {rule: counts.change_examples.get(rule, []) for rule in rules},
        "samples": exhibits.samples(rows, kept),
        "settings": {name: _setting(name, settings) for name in (*reasons, *rules)},
        "words": {
            "reasons": {reason: REASONS[reason] for reason in reasons},
            "rules": {rule: RULE_WORDS[rule] for rule in rules},
            "pii": PII_WORDS,
            "kept_of_duplicates": KEEP_RULE,
        },
    }


def to_json(document: dict[str, Any]) -> bytes:
    """Return the bytes of report.json."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _contamination(spec: DataprepSpec, tally: Tally, tests: Table | None) -> dict[str, Any]:
    found = tally.counts.contamination
    return {
        "action": spec.contamination.action,
        "rows": found.rows,
        "tests": found.document(tests) if tests is not None else [],
        "examples": found.examples,
    }


def _unreadable(tally: Tally) -> list[dict[str, Any]]:
    """Return the first rows that cannot be read: where, what is wrong, what to do."""
    return [
        {
            "file": one.source.name,
            "line": one.line,
            "field": one.problem.field,
            "reason": one.problem.reason,
            "what": excerpt(one.problem.description),
            "remedy": REMEDIES[one.problem.reason],
        }
        for one in tally.counts.unread
    ]


def _setting(name: str, settings: Mapping[str, Any]) -> str:
    """Return the setting behind a reason or a rule with its value, such as `filters.max_chars: 400`; none if empty."""
    path = _SETTINGS.get(name, f"cleaning.{name}")
    value: Any = settings
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return ""
        value = value[part]
    return f"{path}: {orjson.dumps(value).decode()}"


def _split(spec: DataprepSpec, found: Decisions) -> dict[str, Any]:
    by = "row" if found.by_row else spec.split.by
    rule = _SPLIT_RULES.get(by, f"keyed hash of the field {by!r}, so that its values never lie on both sides")
    return {"by": by, "stratify_by": spec.split.stratify_by, "seed": spec.seed, "rule": rule}


_SPLIT_RULES = {
    "cluster": "keyed hash of the normalised question, so that neither equal questions nor near-duplicates lie on both "
    "sides",
    "question": "keyed hash of the normalised question, so that equal questions never lie on both sides",
    "row": "keyed hash of the row, because all rows have the same question",
}


def _funnel(tally: Tally) -> list[dict[str, Any]]:
    """Return the rows left after each step, from all to those kept."""
    left = tally.rows_in
    steps = [{"step": "read", "rows": left}]
    for step, reasons in (("readable", UNREADABLE), ("fit", UNFIT), ("unique", GLOBAL)):
        left -= sum(tally.counts.dropped[reason] for reason in reasons)
        steps.append({"step": step, "rows": left})
    return steps


def _file(file: FileTally, kept: int) -> dict[str, Any]:
    fields = [excerpt(str(name), chars=_NAME_CHARS) for name in file.recognition.fields[:_MOST_FIELDS]]
    return {
        "name": file.source.name,
        "size_bytes": file.source.size_bytes,
        "layout": file.layout.words(),
        "encoding": file.layout.encoding,
        "encoding_confidence": file.layout.confidence,
        "shape": file.recognition.shape.value,
        "with_tools": {"rows": file.recognition.with_tools, "of_first": file.recognition.looked_at},
        "fields": fields,
        "mapping": {ours: excerpt(theirs, chars=_NAME_CHARS) for ours, theirs in file.recognition.mapping},
        "rows": file.rows,
        "counted_in": f"{file.layout.unit}s",
        "unreadable": file.unreadable,
        "unreadable_lines": file.unreadable_lines,
        "kept": kept,
    }


def _lengths(rows: Rows, kept: Any, tally: Tally) -> dict[str, Any]:  # noqa: ANN401 - an array of numbers
    facts, raw = rows.facts, tally.counts.lengths
    lengths = {"answer": summary(facts.answer_chars[kept], raw[1], "characters")}
    if facts.question_chars[kept].any():
        lengths = {"question": summary(facts.question_chars[kept], raw[0], "characters"), **lengths}
    tokens = facts.tokens[kept]
    if tokens.any():
        lengths["tokens"] = summary(tokens[tokens > 0], None, "tokens")
    return lengths
