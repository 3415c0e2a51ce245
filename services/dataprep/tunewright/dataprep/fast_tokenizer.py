"""fastokens' form of a base's tokenizer, where it gives the ids of `tokenizers`. Knows nothing of rows and templates.

fastokens splits texts by one pattern about three times as fast as by a sequence of splitters (27 µs in place of 80 for
a row of 460 tokens), and twice as fast again by GPT-2's own, which it knows by heart (13 µs). Tokenizers that part
digits first and then split as GPT-2 does, as SmolLM's do, are therefore given to it with one pattern that does both,
and with GPT-2's alone for the texts of which that makes no difference.
"""

import re
from collections.abc import Sequence
from itertools import compress
from typing import Any

import fastokens
import numpy as np
import orjson
from numpy.typing import NDArray

from tunewright.dataprep import parted_digits
from tunewright.dataprep.lone_characters import FIRST, LAST, LoneCharacters, joined_bytes
from tunewright.dataprep.masking import BaseTokenizer

_TRIAL = (
    "Hello, world!  Two  spaces\n\n\tdef f(x):\r\n    return x+1  # 1234567\n你好，世界。東京タワーは333メートル。 "
    "naïve café é\u200d \u00a0👩\u200d👩\u200d👧 ½ ＡＢＣ １２ a'll I'M <|im_start|>x<|im_end|> 5  67\t8 x1\n 9"
    "\n</s> العربية हिन्दी"
)
_TRIALS_WITHOUT_DIFFERENCE = (
    "Hello, world!  Two  spaces\n\n\tdef f(x):\r\n    return x+1  # 1234567 is 5, x1\n9 or\t10",
    " a'll I'M 8's 2 3.5e-7 (12)1",
    "你好，世界。東京タワーは333メートル。 naïve café é\u200d 👩\u200d👩\u200d👧 <|im_start|>x<|im_end|> 5\n",
    "</s> العربية हिन्दी",
    "7 at the beginning, white space at the end  \n ",
)
_DIGIT = re.compile("[0-9]")
_OTHER_MERGING = ("ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix")
"""With one of these a word's tokens hang on more than which bytes may be merged."""
_DIGITS_FIRST: list[dict[str, Any]] = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]
_GPT2_WITH_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""GPT-2's pattern on what stands between digits: a digit has no space before it, and white space ends at one whole."""


class FastTokenizer:
    """fastokens' forms of one tokenizer.

    Args:
        every: takes any text.
        most: a faster one, for texts of which digits first makes no difference (`parted_digits.py`).
        lone: Chinese characters that are counted by a table; only beside `most`.
    """

    def __init__(
        self,
        every: fastokens.Tokenizer,
        most: fastokens.Tokenizer | None = None,
        lone: LoneCharacters | None = None,
    ) -> None:
        self._every = every
        self._most = most
        self._lone = lone
        if most is not None:
            parted_digits.warm()

    @property
    def counts_by_table(self) -> bool:
        """True if most Chinese characters are counted by a table."""
        return self._lone is not None

    @property
    def has_two_forms(self) -> bool:
        """True if most texts are encoded by a faster form."""
        return self._most is not None

    def encode(
        self, texts: Sequence[str], *, whole: bool, encoded: Sequence[bytes] | None = None
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the tokens of each text and the last of them, -1 of none; of a text's last ideograph any one's.

        Args:
            texts: any.
            whole: adds what a text by itself gets.
            encoded: the texts in UTF-8, where they are known.
        """
        if self._most is None:
            return _flat(self._every, texts, whole=whole)
        pieces = [text.encode("utf-8", "surrogatepass") for text in texts] if encoded is None else encoded
        taken = np.zeros(len(texts), np.uint32)
        if self._lone is not None:
            pieces, taken = self._lone.take_out(pieces)
            texts = [
                piece.decode("utf-8", "surrogatepass") if some else text
                for text, piece, some in zip(texts, pieces, taken.tolist(), strict=True)
            ]
        ends = np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces)))
        apart = parted_digits.differ(np.frombuffer(b"".join(pieces), np.uint8), ends)
        counts, last = np.empty(len(texts), np.uint32), np.empty(len(texts), np.int64)
        for form, chosen in ((self._every, apart), (self._most, ~apart)):
            if chosen.any():
                counts[chosen], last[chosen] = _flat(form, list(compress(texts, chosen.tolist())), whole=whole)
        return counts + taken, last


def _flat(
    form: fastokens.Tokenizer, texts: Sequence[str], *, whole: bool
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    data, ends = form.encode_batch_flat(texts, whole)
    ids, edges = np.frombuffer(data, np.uint32), np.frombuffer(ends, np.uint64).astype(np.int64)
    counts = np.diff(edges).astype(np.uint32)
    last = np.full(len(counts), -1, np.int64)
    filled = counts > 0
    last[filled] = ids[edges[1:][filled] - 1]
    return counts, last


def fast_tokenizer(base: BaseTokenizer) -> FastTokenizer | None:
    """Return fastokens' forms of the tokenizer if they give the same ids on the trial text."""
    for source in (_by_one_pattern(base.source), base.source):
        if source is not None and (fast := _tried(source, base, [_TRIAL])) is not None:
            plain = _by_gpt2(base.source)
            most = None if plain is None else _tried(plain, base, _TRIALS_WITHOUT_DIFFERENCE)
            return FastTokenizer(fast, most, None if most is None else _lone(base.source, most))
    return None


def _lone(source: str, form: fastokens.Tokenizer) -> LoneCharacters | None:
    """Return the ideographs that can be counted by a table, None where next to none can."""
    tokenizer: dict[str, Any] = orjson.loads(source)
    model, normalizer = tokenizer["model"], tokenizer.get("normalizer") or {}
    if normalizer.get("normalizers", normalizer) or any(model.get(name) for name in _OTHER_MERGING):
        return None
    added = [str(token["content"]) for token in tokenizer["added_tokens"]]
    tokens, _ = _flat(form, [chr(point) for point in range(FIRST, LAST + 1)], whole=False)
    tokens[[ord(sign) - FIRST for token in added for sign in token if FIRST <= ord(sign) <= LAST]] = 0
    lone = LoneCharacters(tokens, joined_bytes(model["vocab"], added))
    return lone if lone.useful else None


def _by_one_pattern(source: str) -> str | None:
    """Return the tokenizer with one pattern in place of two splitters, None if it has others."""
    tokenizer = _parting_digits(source)
    if tokenizer is None:
        return None
    split = {"type": "Split", "pattern": {"Regex": _GPT2_WITH_DIGITS}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"]["pretokenizers"] = [split, {**_DIGITS_FIRST[1], "use_regex": False}]
    return orjson.dumps(tokenizer).decode()


def _by_gpt2(source: str) -> str | None:
    """Return the tokenizer with GPT-2's splitter alone, None if it has others, or tokens that hold a digit and more."""
    tokenizer = _parting_digits(source)
    if tokenizer is None:
        return None
    words = (*tokenizer["model"].get("vocab", ()), *(token["content"] for token in tokenizer["added_tokens"]))
    if tokenizer["model"].get("type") != "BPE" or any(len(word) > 1 and _DIGIT.search(word) for word in words):
        return None
    tokenizer["pre_tokenizer"] = _DIGITS_FIRST[1]
    return orjson.dumps(tokenizer).decode()


def _parting_digits(source: str) -> dict[str, Any] | None:
    """Return the tokenizer if it parts digits first and then splits as GPT-2 does, else None."""
    tokenizer: dict[str, Any] = orjson.loads(source)
    splitters = tokenizer.get("pre_tokenizer") or {}
    parts = splitters.get("type") == "Sequence" and splitters.get("pretokenizers") == _DIGITS_FIRST
    return tokenizer if parts else None


def _tried(source: str, base: BaseTokenizer, trials: Sequence[str]) -> fastokens.Tokenizer | None:
    try:
        fast = fastokens.Tokenizer.from_json_str(source)
        found = [fast.encode_batch_flat([text], special)[0] for text in trials for special in (False, True)]
    except Exception:  # noqa: BLE001 - a tokenizer that it does not know is no fault: the other engine counts
        return None
    wanted = [base.tokenizer.encode(text, add_special_tokens=special) for text in trials for special in (False, True)]
    same = all(np.frombuffer(ids, np.uint32).tolist() == one.ids for ids, one in zip(found, wanted, strict=True))
    return fast if same else None
