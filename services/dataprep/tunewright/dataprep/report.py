"""The figures of a run as one JSON document, the same bytes for the same run. Knows nothing of HTML."""

import bisect
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from tunewright.dataprep.deciding import Decisions
from tunewright.dataprep.dedup import KEEP_RULE
from tunewright.dataprep.kinds import RowKind, messages_of
from tunewright.dataprep.rows import Rows
from tunewright.dataprep.rules import RULE_WORDS
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.tally import GLOBAL, REASONS, UNFIT, UNREADABLE, Tally

SCHEMA_VERSION = 1
_SAMPLES = 3
_TURN_CHARS = 1500
_DECADE = (10, 12, 16, 20, 25, 32, 40, 50, 63, 80)
# Renard's R10 series: ten bars a decade, equally wide on a logarithmic scale.
_EDGES = (*range(1, 9), *(value * 10**power for power in range(8) for value in _DECADE))


def build_report(
    spec: DataprepSpec, tally: Tally, rows: Rows, found: Decisions, fingerprint: str, kind: RowKind
) -> dict[str, Any]:
    """Return the report."""
    kept = np.flatnonzero(found.alive)
    by_file = np.bincount(rows.files[kept], minlength=len(tally.files)).tolist()
    _, groups = np.unique(rows.facts.question[kept], return_counts=True)
    counts = tally.counts
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "row_kind": kind.value,
        "spec": spec.canonical(),
        "rows_in": tally.rows_in,
        "rows_out": len(kept),
        "train_rows": int(found.copies.sum()),
        "validation_rows": int(found.validation.sum()),
        "repeated_rows": int(found.copies.sum()) - int(found.train.sum()),
        "dropped": tally.by_reason(),
        "changed": tally.by_rule(),
        "changed_rows": counts.changed_rows,
        "masked": dict(sorted(counts.masked.items())),
        "markup_left_rows": counts.markup_left,
        "questions": len(groups),
        "rows_sharing_a_question": int(groups[groups > 1].sum()),
        "conflicting_rows": int((found.conflict >= 0).sum()),
        "mixing": [
            {"source": s.source, "weight": s.weight, "available": s.available, "taken": s.taken, "used": s.used}
            for s in found.shares
        ],
        "funnel": _funnel(tally),
        "files": _files(tally, by_file),
        "split": _split(spec, found),
        "lengths": {
            "question": _lengths(rows.facts.question_chars[kept].tolist()),
            "answer": _lengths(rows.facts.answer_chars[kept].tolist()),
        },
        "drop_examples": {reason: counts.drop_examples.get(reason, []) for reason in tally.by_reason()},
        "change_examples": {rule: counts.change_examples.get(rule, []) for rule in tally.by_rule()},
        "samples": [_sample(rows, number) for number in _spread(kept.tolist())],
        "words": {
            "reasons": {reason: REASONS[reason] for reason in tally.by_reason()},
            "rules": {rule: RULE_WORDS[rule] for rule in tally.by_rule()},
            "kept_of_duplicates": KEEP_RULE,
        },
    }


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


def to_json(document: dict[str, Any]) -> bytes:
    """Return the bytes of report.json."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _funnel(tally: Tally) -> list[dict[str, Any]]:
    """Return the rows left after each step, from all to those kept."""
    left = tally.rows_in
    steps = [{"step": "read", "rows": left}]
    for step, reasons in (("readable", UNREADABLE), ("fit", UNFIT), ("unique", GLOBAL)):
        left -= sum(tally.counts.dropped[reason] for reason in reasons)
        steps.append({"step": step, "rows": left})
    return steps


def _files(tally: Tally, kept: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "name": file.source.name,
            "size_bytes": file.source.size_bytes,
            "shape": file.recognition.shape.value,
            "fields": list(file.recognition.fields),
            "rows": file.rows,
            "unreadable": file.unreadable,
            "kept": kept[number],
        }
        for number, file in enumerate(tally.files)
    ]


def _lengths(chars: list[int]) -> dict[str, Any]:
    """Return quantiles (characters) and a histogram: bar i counts lengths from edges[i] up to below edges[i + 1]."""
    ordered = array("L", sorted(chars))
    bins = Counter(bisect.bisect_right(_EDGES, size) for size in ordered)
    first, last = min(bins), max(bins)
    edges = [0, *_EDGES, _EDGES[-1] * 10]
    return {
        "unit": "characters",
        "min": ordered[0],
        "p10": _quantile(ordered, 0.1),
        "median": _quantile(ordered, 0.5),
        "p90": _quantile(ordered, 0.9),
        "max": ordered[-1],
        "edges": edges[first : last + 2],
        "counts": [bins[number] for number in range(first, last + 1)],
    }


def _quantile(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _spread(kept: Sequence[int]) -> list[int]:
    """Return a few of the rows, evenly spread."""
    count = min(_SAMPLES, len(kept))
    return [kept[(2 * index + 1) * len(kept) // (2 * count)] for index in range(count)]


def _sample(rows: Rows, number: int) -> dict[str, Any]:
    row = rows.read(number)
    turns = [{"role": m["role"], "content": m["content"][:_TURN_CHARS]} for m in messages_of(row)[:6]]
    return {"source": row["source"], "messages": turns}
