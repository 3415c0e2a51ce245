"""Features of a block's rows: what later decisions need of a row, as arrays. Pure; knows no files, no other rows.

Normal form → identity, question, prompt and answer; tokens → sketch → band keys.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.characters import tables
from tunewright.dataprep.clusters import warm_clusters
from tunewright.dataprep.compiling import compiled, nth
from tunewright.dataprep.forms import Forms, normal_forms
from tunewright.dataprep.hashing import mix
from tunewright.dataprep.parts import ASSISTANT, CHOSEN, REJECTED, SYSTEM, USER, Parts
from tunewright.dataprep.shingling import sets
from tunewright.dataprep.sketching import band_keys, banding
from tunewright.dataprep.spec import Duplicates
from tunewright.dataprep.splitting import places

_SHA256 = hashlib.sha256
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MOST_DISTINCT = 0xFFFF


@dataclass(frozen=True, slots=True)
class Features:
    """Facts of n rows."""

    identity: NDArray[np.uint8]
    """n × 32; SHA-256 of roles and normal forms: rows that say the same have the same. The id of the row."""
    distinct: NDArray[np.uint16]
    """n; different characters of the texts as they stand."""
    question: NDArray[np.uint64]
    """n; place of the first user message (of the first part if there is none) on the scale of the split."""
    prompt: NDArray[np.uint64]
    """n; hash of all that stands before the last answer; 0 for rows without an answer."""
    answer: NDArray[np.uint64]
    """n; hash of the last answer; 0 for rows without one."""
    bands: NDArray[np.uint64]
    """n × bands; rows that share a key in any column may be near-duplicates. No columns if those are not looked for."""
    sizes: NDArray[np.int64]
    """One entry a part: characters of its text."""


def features(parts: Parts, spec: Duplicates, *, seed: int) -> Features:
    """Return the features of a block's rows; `seed` is the split's."""
    forms = normal_forms(parts)
    count = len(parts)
    data = forms.data.tobytes()
    starts, ends = forms.row_starts.tolist(), forms.row_ends().tolist()
    identity = b"".join([_SHA256(data[start:end]).digest() for start, end in zip(starts, ends, strict=True)])
    identities = np.frombuffer(identity, np.uint8).reshape(count, 32)
    facts = np.zeros((count, 5), np.uint64)
    _hash_rows(forms.data, forms.starts, forms.ends, parts.rows, parts.roles, facts)
    asked = facts[:, 4].astype(np.int64)
    begins, stops = forms.starts[asked].tolist(), forms.ends[asked].tolist()
    question = places([data[start:end] for start, end in zip(begins, stops, strict=True)], seed)
    question[asked < 0] = 0
    return Features(
        identity=identities,
        distinct=np.minimum(forms.distinct, _MOST_DISTINCT).astype(np.uint16),
        question=question,
        prompt=facts[:, 0].copy(),
        answer=facts[:, 1].copy(),
        bands=_bands(forms, facts[:, 2], identities, spec),
        sizes=forms.sizes,
    )


def warm() -> None:
    """Compile all that is compiled, or load it from disk: once in the parent, before a pool starts."""
    parts = Parts.of([[("system", "s"), ("user", "Où est-il ?\n 你好，"), ("assistant", "e\u0301 …")]] * 2)
    features(parts, Duplicates(near=True), seed=0)
    sets(parts, 5)
    tables()
    warm_clusters()


def _bands(
    forms: Forms, systems: NDArray[np.uint64], identities: NDArray[np.uint8], spec: Duplicates
) -> NDArray[np.uint64]:
    if not spec.near:
        return np.empty((len(forms.parts), 0), np.uint64)
    tokens = forms.tokens
    alone = np.ascontiguousarray(identities[:, :8]).view(np.uint64)[:, 0]
    cut = banding(spec.permutations, spec.threshold)
    salts = np.ascontiguousarray(systems)
    return band_keys(tokens.hashes, tokens.ends, salts, alone, spec.shingle, spec.permutations, cut.bands, cut.rows)


@compiled
def _hash_rows(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    rows: NDArray[np.int64],
    roles: NDArray[np.uint8],
    facts: NDArray[np.uint64],
) -> None:
    """Fill n × 5: hashes of prompt, last answer and system messages, an unused one, number of the question's part."""
    part = 0
    for row in range(len(rows)):
        first, asked, answered = part, -1, -1
        while part < rows[row]:
            role = roles[part]
            if asked < 0 and role == USER:
                asked = part
            if role in (ASSISTANT, CHOSEN):
                answered = part
            part += 1
        if asked < 0 and part > first:
            asked = first
        for at in range(first, part):
            own = _hash(data, starts[at], ends[at], roles[at])
            if roles[at] == SYSTEM:
                facts[row, 2] = mix(facts[row, 2] ^ own)
            if at == answered:
                facts[row, 1] = own
            elif at < answered and roles[at] != REJECTED:
                facts[row, 0] = mix(facts[row, 0] ^ own)
        facts[row, 4] = np.uint64(asked)


@compiled
def _hash(data: NDArray[np.uint8], start: int, end: int, role: int) -> np.uint64:
    """Return a hash of some bytes: four of them side by side, since each multiplication waits for the one before."""
    one = two = three = four = np.uint64(role + 1) * _PRIME
    at = start
    while at + 4 <= end:
        one = (one ^ np.uint64(data[nth(at)])) * _PRIME
        two = (two ^ np.uint64(data[nth(at + 1)])) * _PRIME
        three = (three ^ np.uint64(data[nth(at + 2)])) * _PRIME
        four = (four ^ np.uint64(data[nth(at + 3)])) * _PRIME
        at += 4
    while at < end:
        one = (one ^ np.uint64(data[nth(at)])) * _PRIME
        at += 1
    return mix(one ^ mix(two ^ mix(three ^ mix(four ^ np.uint64(end - start)))))
