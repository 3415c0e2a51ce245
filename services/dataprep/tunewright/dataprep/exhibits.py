"""What the report shows of rows that belong together: near-duplicates, conflicts; and of the rows that are kept.

A few groups, chosen by size and by doubt, never at random. Reads rows by number; decides nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.dataprep import languages
from tunewright.dataprep.cleaning import ANSWERS
from tunewright.dataprep.deciding import Decisions
from tunewright.dataprep.dedup import why_better
from tunewright.dataprep.excerpts import as_text, excerpt
from tunewright.dataprep.kinds import messages_of
from tunewright.dataprep.rows import Rows
from tunewright.dataprep.shapes import Message
from tunewright.dataprep.tally import NEAR_DUPLICATE
from tunewright.dataprep.tool_use import TOOLS, said

_GROUPS, _MEMBERS = 6, 4
_SAMPLES, _TURNS, _TURN_CHARS = 3, 6, 1500
_LANGUAGE_ROWS = 1000


def near_duplicates(rows: Rows, found: Decisions) -> dict[str, Any]:
    """Return the clusters' figures and some of them: half the largest, half those whose rows are the least alike."""
    dropped = found.reasons.get(NEAR_DUPLICATE, np.zeros(0, np.int64))
    kept, which, sizes = np.unique(found.kept_instead[dropped], return_inverse=True, return_counts=True)
    least = np.ones(len(kept), np.float32)
    np.minimum.at(least, which, found.similarity[dropped])
    largest = np.lexsort((kept, -sizes))[: _GROUPS // 2].tolist()
    doubtful = [group for group in np.lexsort((kept, least)).tolist() if group not in largest]
    chosen = (largest + doubtful)[:_GROUPS]
    return {
        "clusters": len(kept),
        "dropped": len(dropped),
        "largest": int(sizes.max(initial=0)) + 1 if len(kept) else 0,
        "examples": [_cluster(int(kept[group]), dropped[which == group], rows, found) for group in chosen],
    }


def _cluster(kept: int, members: NDArray[np.int64], rows: Rows, found: Decisions) -> dict[str, Any]:
    order = np.lexsort((members, found.similarity[members]))[:_MEMBERS]
    worth = rows.facts.worth
    return {
        "kept": _member(rows, kept),
        "rows": len(members) + 1,
        "dropped": [
            {
                **_member(rows, number),
                "similarity": round(float(found.similarity[number]), 4),
                "why": why_better(int(worth[kept]), int(worth[number])),
            }
            for number in members[order].tolist()
        ],
    }


def conflicts(rows: Rows, found: Decisions) -> dict[str, Any]:
    """Return how many rows are in conflict, and the questions that have the most answers."""
    numbers = np.flatnonzero(found.conflict >= 0)
    labels, which, sizes = np.unique(found.conflict[numbers], return_inverse=True, return_counts=True)
    chosen = np.lexsort((labels, -sizes))[:_GROUPS].tolist()
    return {
        "questions": len(labels),
        "rows": len(numbers),
        "examples": [_conflict(numbers[which == group], rows, found) for group in chosen],
    }


def _conflict(members: NDArray[np.int64], rows: Rows, found: Decisions) -> dict[str, Any]:
    shown = [(number, rows.read(number)) for number in members[:_MEMBERS].tolist()]
    first = messages_of(shown[0][1])
    question = "\n".join(said(turn) for turn in first[: _last_answer(first)] if turn["role"] != TOOLS)
    return {
        "question": excerpt(question),
        "rows": len(members),
        "answers": [
            {
                **_place(row),
                "text": excerpt(_answer(row)),
                "kept": bool(found.alive[number]),
            }
            for number, row in shown
        ],
    }


def samples(rows: Rows, kept: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Return a few of the kept rows, evenly spread."""
    return [_sample(rows.read(number)) for number in _spread(kept, _SAMPLES).tolist()]


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    turns = [
        {"role": turn["role"], "content": excerpt(said(turn), chars=_TURN_CHARS)} for turn in messages_of(row)[:_TURNS]
    ]
    return {"source": row["source"], "messages": turns}


def languages_of(rows: Rows, kept: NDArray[np.int64]) -> dict[str, Any]:
    """Return the languages of answers, by a model, over at most a thousand of the kept rows, evenly spread."""
    numbers = _spread(kept, _LANGUAGE_ROWS)
    names = languages.identify([_answers(orjson.loads(line)) for line in rows.lines(numbers)])
    codes, counts = np.unique(np.array([name or "unsure" for name in names]), return_counts=True)
    order = np.lexsort((codes, -counts))
    return {"looked_at": len(numbers), "counts": {str(codes[at]): int(counts[at]) for at in order.tolist()}}


def _answers(row: dict[str, Any]) -> str:
    return "\n".join(turn["content"] for turn in messages_of(row) if turn["role"] in ANSWERS)


def _spread(kept: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    count = min(most, len(kept))
    places = (2 * np.arange(count) + 1) * len(kept) // (2 * max(count, 1))
    chosen: NDArray[np.int64] = kept[places]
    return chosen


def _member(rows: Rows, number: int) -> dict[str, Any]:
    row = rows.read(number)
    return {**_place(row), "text": excerpt(as_text(messages_of(row)))}


def _place(row: dict[str, Any]) -> dict[str, Any]:
    return {"file": row["source"]["file"], "line": row["source"]["line"]}


def _answer(row: dict[str, Any]) -> str:
    turns = messages_of(row)
    return said(turns[_last_answer(turns)])


def _last_answer(turns: Sequence[Message]) -> int:
    return max(index for index, turn in enumerate(turns) if turn["role"] in ANSWERS)
