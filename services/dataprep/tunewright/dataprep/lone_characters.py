"""Counts Chinese characters of which no token reaches into the next, so that nobody has to merge their bytes.

A byte-level tokenizer with few Chinese words, as SmolLM2's, takes a sentence for one word of a hundred bytes, and most
of its time goes into merging them. Where no token holds a character's last byte before the first byte of what follows,
no merge reaches over that edge: then the character has the tokens that it has alone. Of a run of such characters the
first stays in the text, so that words are split where they were; the others go, and their tokens are counted by a
table. Knows no tokenizer's splitters: whoever uses it must know that they split between letters nowhere.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tunewright.dataprep.compiling import compiled, nth
from tunewright.dataprep.utf8 import character

FIRST, LAST = 0x4E00, 0x9FA5
"""The ideographs of Unicode 1.1: letters to every splitter, whatever its Unicode."""
_LEAST_SHARE = 0.5
"""Where fewer edges between them are free, little would be gained."""


class LoneCharacters:
    """What is known of one tokenizer.

    Args:
        tokens: of each ideograph from FIRST to LAST alone; 0 for those that are to stay in the text.
        joined: 256 × 256; True for two bytes of which some token holds the one before the other.
    """

    def __init__(self, tokens: NDArray[np.uint32], joined: NDArray[np.bool_]) -> None:
        self._tokens = tokens
        self._joined = joined
        self.take_out([b"1"])  # compiles the pass, or loads it from the cache

    @property
    def useful(self) -> bool:
        """True if most edges between ideographs are free."""
        return 1 - float(self._joined[0x80:0xC0, 0xE4:0xEA].mean()) >= _LEAST_SHARE

    def take_out(self, texts: Sequence[bytes]) -> tuple[list[bytes], NDArray[np.uint32]]:
        """Return the texts (UTF-8) without the characters that need not stay, and the tokens of those."""
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        data = np.frombuffer(b"".join(texts), np.uint8)
        out, out_ends = np.empty(len(data), np.uint8), np.empty(len(texts), np.int64)
        counts = np.zeros(len(texts), np.uint32)
        _take_out(data, ends, self._tokens, self._joined, out, out_ends, counts)
        left = out[: out_ends[-1] if len(texts) else 0].tobytes()
        places = [0, *out_ends.tolist()]
        return [left[start:end] for start, end in itertools.pairwise(places)], counts


def joined_bytes(vocabulary: Iterable[str], others: Iterable[str]) -> NDArray[np.bool_]:
    """Return which bytes stand one before the other in a token.

    Args:
        vocabulary: tokens in the alphabet of byte-level tokenizers, a character a byte.
        others: tokens that stand as they are.
    """
    codes = np.frombuffer("\n".join(vocabulary).encode("utf-32-le"), np.uint32)
    alphabet = _alphabet()
    known = np.where(codes < len(alphabet), alphabet[np.minimum(codes, len(alphabet) - 1)], -1)
    joined = np.zeros((256, 256), np.bool_)
    inside = (known[:-1] >= 0) & (known[1:] >= 0)
    joined[known[:-1][inside], known[1:][inside]] = True
    for token in others:
        own = np.frombuffer(token.encode("utf-8", "surrogatepass"), np.uint8)
        joined[own[:-1], own[1:]] = True
    return joined


def _alphabet() -> NDArray[np.int64]:
    """Return for each code point of GPT-2's alphabet its byte, -1 for others."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    found = np.full(0x100 + 256 - len(printable), -1, np.int64)
    found[printable] = printable
    found[0x100:] = [byte for byte in range(256) if byte not in printable]
    return found


@compiled
def _take_out(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    tokens: NDArray[np.uint32],
    joined: NDArray[np.bool_],
    out: NDArray[np.uint8],
    out_ends: NDArray[np.int64],
    counts: NDArray[np.uint32],
) -> None:
    at = used = 0
    for text in range(len(ends)):
        end, behind = ends[text], False  # behind an ideograph, which stays or went
        while at < end:
            byte = data[nth(at)]
            if byte < 0xE4 or byte > 0xE9:  # noqa: PLR2004 - ideographs begin with these
                out[nth(used)] = byte
                at, used, behind = at + 1, used + 1, False
                continue
            point, size = character(data, at)
            count = tokens[nth(point - FIRST)] if FIRST <= point <= LAST else np.uint32(0)
            last = data[nth(at + size - 1)]
            free = behind and count > 0 and not joined[data[nth(at - 1)], byte]
            if free and at + size < end:
                after = data[nth(at + size)]
                free = not joined[last, after] and not joined[out[nth(used - 1)], after]
            if free:
                counts[text] += count
            else:
                for index in range(size):
                    out[nth(used + index)] = data[nth(at + index)]
                used += size
            at, behind = at + size, bool(count > 0)
        out_ends[text] = used
