"""The figures of a run as one JSON document, the same bytes for the same run. Knows nothing of HTML."""

import bisect
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

from tunewright.dataprep.cleaning import RULES
from tunewright.dataprep.dedup import KEEP_RULE
from tunewright.dataprep.rows import RowStore
from tunewright.dataprep.spec import DataprepSpec
from tunewright.dataprep.tally import DUPLICATE, REASONS, UNFIT, UNREADABLE, Tally

SCHEMA_VERSION = 1
_SAMPLES = 3
_TURN_CHARS = 1500
_DECADE = (10, 12, 16, 20, 25, 32, 40, 50, 63, 80)
# Renard's R10 series: ten bars a decade, equally wide on a logarithmic scale.
_EDGES = (*range(1, 9), *(value * 10**power for power in range(8) for value in _DECADE))


def build_report(
    spec: DataprepSpec,
    tally: Tally,
    rows: RowStore,
    train: Sequence[int],
    validation: Sequence[int],
    *,
    by_row: bool,
    fingerprint: str,
) -> dict[str, Any]:
    """Return the report; `train` and `validation` are the numbers of the kept rows."""
    kept = sorted([*train, *validation])
    by_file = Counter(rows.file(number) for number in kept)
    groups = Counter(rows.questions[number] for number in kept)
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "spec": spec.canonical(),
        "rows_in": tally.rows_in,
        "rows_out": len(kept),
        "train_rows": len(train),
        "validation_rows": len(validation),
        "dropped": tally.by_reason(),
        "changed": tally.by_rule(),
        "changed_rows": tally.changed_rows,
        "markup_left_rows": tally.markup_left,
        "questions": len(groups),
        "rows_sharing_a_question": sum(size for size in groups.values() if size > 1),
        "funnel": _funnel(tally),
        "files": _files(tally, by_file),
        "split": {"by": "row" if by_row else "question", "seed": spec.seed, "rule": _SPLIT_RULES[by_row]},
        "lengths": {
            "question": _lengths([rows.question_chars[number] for number in kept]),
            "answer": _lengths([rows.answer_chars[number] for number in kept]),
        },
        "drop_examples": {reason: tally.drop_examples[reason] for reason in tally.by_reason()},
        "change_examples": {rule: tally.change_examples[rule] for rule in tally.by_rule()},
        "samples": [_sample(rows, number) for number in _spread(kept)],
        "words": {
            "reasons": {reason: REASONS[reason] for reason in tally.by_reason()},
            "rules": {rule: RULES[rule] for rule in tally.by_rule()},
            "kept_of_duplicates": KEEP_RULE,
        },
    }


_SPLIT_RULES = {
    False: "keyed hash of the normalised question, so that equal questions never lie on both sides",
    True: "keyed hash of the row, because all rows have the same question",
}


def to_json(document: dict[str, Any]) -> bytes:
    """Return the bytes of report.json."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _funnel(tally: Tally) -> list[dict[str, Any]]:
    """Return the rows left after each step, from all to those kept."""
    left = tally.rows_in
    steps = [{"step": "read", "rows": left}]
    for step, reasons in (("readable", UNREADABLE), ("fit", UNFIT), ("unique", (DUPLICATE,))):
        left -= sum(tally.dropped[reason] for reason in reasons)
        steps.append({"step": step, "rows": left})
    return steps


def _files(tally: Tally, kept: Counter[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": file.source.name,
            "size_bytes": file.source.size_bytes,
            "shape": file.recognition.shape.value,
            "fields": list(file.recognition.fields),
            "rows": file.rows,
            "unreadable": file.unreadable,
            "kept": kept[file.source.name],
        }
        for file in tally.files
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


def _sample(rows: RowStore, number: int) -> dict[str, Any]:
    row = rows.read(number)
    turns = [{"role": m["role"], "content": m["content"][:_TURN_CHARS]} for m in row["messages"][:6]]
    return {"source": row["source"], "messages": turns}
