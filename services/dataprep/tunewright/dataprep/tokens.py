"""How many tokens each row has once the base's chat template is around it. Exact, at the speed of compiled code.

Rendering by jinja2 costs more than tokenising, so the template is asked once for each sequence of roles, with signs in
place of the texts; the pieces between the signs then go around the real texts. A row whose texts hold a word that the
template itself compares with (`</think>`, for example), or that the template trims, is rendered for real.
Tokens are counted by fastokens where it gives the ids of `tokenizers` on a trial text, else by `tokenizers`.
Knows nothing of files and masks.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import nodes
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray

from tunewright.dataprep.chat_template import ChatTemplate
from tunewright.dataprep.fast_tokenizer import fast_tokenizer
from tunewright.dataprep.masking import TEXT, BaseTokenizer, Messages, conversations_of
from tunewright.dataprep.tool_use import TOOLS

_SIGN = "\x01{}\x01"
_NAMES = frozenset({"role", "content", "system", "user", "assistant", "tool", "type", "text"})
"""What every template compares roles and keys with; contents are full of these words."""
_MANY_ROLES = 64
"""Role sequences whose pieces are remembered."""


class TokenCounter:
    """Counts tokens of rows for the base in a folder. Picklable, with the bytes of the tokenizer's files.

    Raises:
        InvalidData: the folder holds no tokenizer.json.
    """

    def __init__(self, folder: Path) -> None:
        self.base = BaseTokenizer(folder)
        self._fast = fast_tokenizer(self.base)
        self._frames: dict[tuple[str, ...], list[str] | None] = {}
        self._own_words = _own_words(self.base.template)

    def __reduce__(self) -> tuple[Callable[[dict[str, bytes]], "TokenCounter"], tuple[dict[str, bytes]]]:
        return _unpacked, (self.base.files,)

    @property
    def engine(self) -> str:
        """What counts: `fastokens` or `tokenizers`."""
        return "tokenizers" if self._fast is None else "fastokens"

    def count(self, rows: Sequence[Messages]) -> NDArray[np.uint32]:
        """Return the tokens of each row, of the longer answer of a preference pair; 0 where the template refuses it."""
        if not rows:
            return np.zeros(0, np.uint32)
        if rows[0][0]["role"] == TEXT:
            return self._documents([str(row[0]["content"]) for row in rows])
        conversations = [conversations_of(row) for row in rows]
        texts = [self._text(one) for row in conversations for one in row]
        counts, _ = self._encode(["" if text is None else text for text in texts], whole=False)
        counts[[number for number, text in enumerate(texts) if text is None]] = 0
        sizes = np.fromiter(map(len, conversations), np.int64, len(rows))
        return np.maximum.reduceat(counts, np.cumsum(sizes) - sizes)

    def _documents(self, texts: list[str]) -> NDArray[np.uint32]:
        """Return the tokens of documents, with the token that ends one."""
        counts, last = self._encode(texts, whole=True)
        end = self.base.end_id
        return counts if end is None else counts + (last != end).astype(np.uint32)

    def _encode(self, texts: list[str], *, whole: bool) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the tokens of each text and the last of them, -1 of none; `whole` adds what a text by itself gets."""
        if self._fast is None:
            found = self.base.tokenizer.encode_batch_fast(texts, add_special_tokens=whole)
            counts = np.fromiter((len(one.ids) for one in found), np.uint32, len(texts))
            return counts, np.fromiter((one.ids[-1] if one.ids else -1 for one in found), np.int64, len(texts))
        data, ends = self._fast.encode_batch_flat(texts, whole)
        ids, edges = np.frombuffer(data, np.uint32).astype(np.int64), np.frombuffer(ends, np.uint64).astype(np.int64)
        counts = np.diff(edges).astype(np.uint32)
        return counts, np.where(counts > 0, np.concatenate([ids, [-1]])[edges[1:] - 1], -1)

    def _text(self, row: Messages) -> str | None:
        if self.base.template is None:
            return None
        if row[0]["role"] == TOOLS:
            return _rendered(self.base.template, row)
        contents = [message["content"] for message in row]
        roles = tuple([message["role"] for message in row])
        frame = self._frame(roles)
        if frame is None or self._is_special(row, contents):
            return _rendered(self.base.template, row)
        parts: list[str] = [""] * (2 * len(contents) + 1)
        parts[::2], parts[1::2] = frame, contents
        return "".join(parts)

    def _is_special(self, row: Messages, contents: list[Any]) -> bool:
        """Return True for a row that the template may treat otherwise than by putting its texts in place."""
        for message, content in zip(row, contents, strict=True):
            if len(message) > 2 or not isinstance(content, str):  # noqa: PLR2004 - role and content
                return True
            if content.strip() != content or not content or any(word in content for word in self._own_words):
                return True
        return False

    def _frame(self, roles: tuple[str, ...]) -> list[str] | None:
        """Return the template's own text before, between and after the contents, None if there is no such form."""
        if roles not in self._frames:
            if len(self._frames) >= _MANY_ROLES:
                return None
            self._frames[roles] = self._find_frame(roles)
        return self._frames[roles]

    def _find_frame(self, roles: tuple[str, ...]) -> list[str] | None:
        template = self.base.template
        signs = [_SIGN.format(number) for number in range(len(roles))]
        row = [{"role": role, "content": sign} for role, sign in zip(roles, signs, strict=True)]
        rest = _rendered(template, row) if template is not None else None
        if rest is None:
            return None
        pieces = []
        for sign in signs:
            if rest.count(sign) != 1:
                return None
            before, _, rest = rest.partition(sign)
            pieces.append(before)
        return [*pieces, rest]


def _unpacked(files: dict[str, bytes]) -> TokenCounter:
    """Return the counter of a base whose files are given by name: another machine does not have its folder."""
    with tempfile.TemporaryDirectory() as name:
        for file, data in files.items():
            (Path(name) / file).write_bytes(data)
        return TokenCounter(Path(name))


def _rendered(template: ChatTemplate, row: Messages) -> str | None:
    """Return the row as text; None where the template refuses it, or drops tools of it without a word."""
    try:
        return None if template.dropped_of(row) else template.render(row)
    except TemplateError:
        return None


def _own_words(template: ChatTemplate | None) -> tuple[str, ...]:
    """Return the texts that the template looks for: a content that holds one may be rendered otherwise."""
    return () if template is None else tuple(sorted(set(_compared(template))))


def _compared(template: ChatTemplate) -> Iterator[str]:
    tree = template.parse()
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Test)):
        for constant in node.find_all(nodes.Const):
            if isinstance(constant.value, str) and constant.value.strip() and constant.value not in _NAMES:
                yield constant.value
