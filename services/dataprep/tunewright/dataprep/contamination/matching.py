"""Looks up the rows of a block in the table of the test sets. Compiled; a pure function of the rows and the table.

For each training row and each message of a test set: the share of the message's n-grams that stand in the row (in any
of its messages but the system's). Long training rows thereby hide nothing, and a long test passage that a row merely
quotes a sentence of does not count. A whole question that is equal counts as 1, whatever its length.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.characters import tables
from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.contamination.grams import (
    Buffers,
    Characters,
    buffers,
    grams,
    is_short,
    pair_key,
    question_key,
    tokenise,
    whole,
)
from tunewright.dataprep.contamination.table import Table, filter_shift
from tunewright.dataprep.parts import ASSISTANT, CHOSEN, REJECTED, SYSTEM, USER, Parts

_FIRST_ROOM = 256


class Matches(NamedTuple):
    """Pairs of a training row and a test set's message, in the order of the rows."""

    rows: NDArray[np.int64]
    messages: NDArray[np.int64]
    shares: NDArray[np.float32]
    """Of the message's n-grams that stand in the row, `min_overlap` to 1."""
    questions: NDArray[np.bool_]
    """True where the whole question is equal."""


def match(parts: Parts, table: Table, min_overlap: float) -> Matches:
    """Return the pairs whose overlap is `min_overlap` or more."""
    row_bytes = np.diff(np.concatenate([[0], parts.ends])[parts.rows], prepend=0) if len(parts) else np.zeros(0, int)
    room = buffers(int(np.diff(parts.ends, prepend=0).max(initial=0)), table.ngram)
    longest = int(row_bytes.max(initial=0)) + 1
    hits, found = np.empty(longest, np.uint64), np.empty(longest, np.int64)
    counts, touched = np.zeros(len(table.totals), np.uint32), np.empty(len(table.totals), np.int64)
    asked = np.zeros(len(table.totals), np.bool_)
    size = _FIRST_ROOM
    while True:
        out = np.empty((size, 3), np.int64)
        shares = np.empty(size, np.float32)
        used = _match(
            parts.data, parts.ends, parts.roles, parts.rows, table.ngram, Characters.of(tables()), room, table.grams,
            table.firsts, table.messages, table.passing, filter_shift(len(table.passing)), table.keys,
            table.key_messages, table.totals, min_overlap, hits, found, counts, touched, asked, out, shares,
        )  # fmt: skip
        if used <= size:
            return Matches(out[:used, 0], out[:used, 1], shares[:used], out[:used, 2] > 0)
        size = used


def warm(table: Table) -> None:
    """Compile, or load from disk, what is compiled: once in the parent, before a pool starts."""
    match(Parts.of([[("user", "warm")]]), table, 1.0)


def overlap(text: str, table: Table, message: int) -> str:
    """Return the longest piece of the text that stands in a message of a test set; empty if no n-gram does."""
    parts = Parts.of([[("text", text)]])
    room = buffers(len(parts.data), table.ngram)
    count = tokenise(parts.data, 0, len(parts.data), Characters.of(tables()), room)
    values = np.empty(count + 1, np.uint64)
    values = values[: grams(count, table.ngram, room, values, 0)]
    postings = np.flatnonzero(table.messages == message)
    own = table.grams[np.searchsorted(table.firsts, postings, side="right") - 1]
    shared = np.concatenate([[0], np.isin(values, own).astype(np.int8), [0]])
    edges = np.diff(shared)
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(starts):
        return ""
    best = int(np.argmax(stops - starts))
    last = int(starts[best]) + int(stops[best] - starts[best]) - 1
    after = last
    while room.weights[after] - room.weights[last] < 2 * table.ngram:
        after += 1
    return parts.data[room.starts[starts[best]] : room.ends[after - 1]].tobytes().decode("utf-8", "surrogatepass")


@compiled
def _find(values: NDArray[np.uint64], value: np.uint64) -> int:
    """Return the place of a value in an ascending array, -1 if it is not there."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < len(values) and values[low] == value else -1


@compiled
def _match(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    roles: NDArray[np.uint8],
    rows: NDArray[np.int64],
    ngram: int,
    characters: Characters,
    room: Buffers,
    values: NDArray[np.uint64],
    firsts: NDArray[np.uint32],
    messages: NDArray[np.uint32],
    passing: NDArray[np.uint8],
    shift: int,
    keys: NDArray[np.uint64],
    key_messages: NDArray[np.uint32],
    totals: NDArray[np.uint32],
    min_overlap: float,
    hits: NDArray[np.uint64],
    found: NDArray[np.int64],
    counts: NDArray[np.uint32],
    touched: NDArray[np.int64],
    asked: NDArray[np.bool_],
    out: NDArray[np.int64],
    shares: NDArray[np.float32],
) -> int:
    """Write the pairs found, as far as there is room; return how many there are."""
    used = part = start = 0
    for row in range(len(rows)):
        hit = touch = 0
        question, has_question = np.uint64(0), False
        while part < rows[row]:
            role = roles[part]
            count = tokenise(data, start, ends[part], characters, room) if role != SYSTEM else 0
            start = ends[part]
            part += 1
            if count == 0:
                continue
            hit = _hits(grams(count, ngram, room, hits, hit), hit, hits, found, values, passing, shift)
            if role == USER:
                question, has_question = whole(count, room), True
                key = question_key(question)
                at = _find(keys, key) if not is_short(count, room) else -1
            elif has_question and role in (ASSISTANT, CHOSEN, REJECTED):
                at = _find(keys, pair_key(question, whole(count, room)))
            else:
                at = -1
            if at >= 0 and not asked[key_messages[at]]:
                message = key_messages[at]
                asked[message] = True
                touched[touch] = message
                touch += 1
        touch = _count(found, hit, firsts, messages, counts, asked, touched, touch)
        for index in range(touch):
            message = touched[index]
            share = np.float32(counts[message]) / np.float32(max(np.uint32(1), totals[message]))
            if asked[message] or share >= np.float32(min_overlap):
                if used < len(out):
                    out[used, 0], out[used, 1], out[used, 2] = row, message, asked[message]
                    shares[used] = 1.0 if asked[message] else share
                used += 1
            counts[message], asked[message] = 0, False
    return used


@compiled
def _hits(
    end: int,
    begin: int,
    hits: NDArray[np.uint64],
    found: NDArray[np.int64],
    values: NDArray[np.uint64],
    passing: NDArray[np.uint8],
    shift: int,
) -> int:
    """Keep of the n-grams from `begin` to `end` those that are in the table; return the number of kept ones."""
    kept = begin
    for index in range(begin, end):
        bit = hits[index] >> np.uint64(shift)
        if passing[bit >> np.uint64(3)] >> (bit & np.uint64(7)) & np.uint64(1):
            at = _find(values, hits[index])
            if at >= 0:
                found[kept] = at
                kept += 1
    return kept


@compiled
def _count(
    found: NDArray[np.int64],
    hit: int,
    firsts: NDArray[np.uint32],
    messages: NDArray[np.uint32],
    counts: NDArray[np.uint32],
    asked: NDArray[np.bool_],
    touched: NDArray[np.int64],
    touch: int,
) -> int:
    """Count for each message the different n-grams found, and note the messages."""
    if hit == 0:
        return touch
    places = np.sort(found[:hit])
    for index in range(hit):
        if index > 0 and places[index] == places[index - 1]:
            continue
        for posting in range(firsts[places[index]], firsts[places[index] + 1]):
            message = messages[posting]
            if counts[message] == 0 and not asked[message]:
                touched[touch] = message
                touch += 1
            counts[message] += np.uint32(1)
    return touch
