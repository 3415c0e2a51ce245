"""How many tokens each row has once the base's chat template is around it. Exact, at the speed of compiled code.

Rendering by jinja2 costs more than tokenising, so the template is asked once for each sequence of roles, with signs in
place of the texts; the pieces between the signs then go around the real texts. Where nothing joins across their edges
(`joints.py`), the pieces are counted once and the texts by themselves. A row whose texts hold a word that the template
itself compares with (`</think>`, for example), or that the template trims, is rendered for real.
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
from tunewright.dataprep.joints import Joints
from tunewright.dataprep.masking import REJECTED, TEXT, BaseTokenizer, Messages, conversations_of
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
        self._joints = Joints(self.base.source)
        self._frames: dict[tuple[str, ...], list[str] | None] = {}
        self._arounds: dict[tuple[str, ...], int | None] = {}
        self._own_words = _own_words(self.base.template)

    def __reduce__(self) -> tuple[Callable[[dict[str, bytes]], "TokenCounter"], tuple[dict[str, bytes]]]:
        return _unpacked, (self.base.files,)

    @property
    def engine(self) -> str:
        """What counts: `fastokens` or `tokenizers`."""
        return "tokenizers" if self._fast is None else "fastokens"

    def count(self, rows: Sequence[Messages], encoded: Sequence[bytes] | None = None) -> NDArray[np.uint32]:
        """Return the tokens of each row, of the longer answer of a preference pair; 0 where the template refuses it.

        Args:
            rows: of one kind.
            encoded: the contents of all messages in UTF-8, one after the other, where they are known.
        """
        if not rows:
            return np.zeros(0, np.uint32)
        if rows[0][0]["role"] == TEXT:
            return self._documents([str(row[0]["content"]) for row in rows], encoded)
        if self._fast is None or rows[0][-1]["role"] == REJECTED:
            return self._whole_rows(rows)
        return self._by_contents(rows, encoded)

    def _whole_rows(self, rows: Sequence[Messages]) -> NDArray[np.uint32]:
        """Return the tokens of rows, each rendered."""
        conversations = [conversations_of(row) for row in rows]
        texts = [self._text(one) for row in conversations for one in row]
        counts, _ = self._encode(["" if text is None else text for text in texts], whole=False)
        counts[[number for number, text in enumerate(texts) if text is None]] = 0
        sizes = np.fromiter(map(len, conversations), np.int64, len(rows))
        return np.maximum.reduceat(counts, np.cumsum(sizes) - sizes)

    def _by_contents(self, rows: Sequence[Messages], encoded: Sequence[bytes] | None) -> NDArray[np.uint32]:
        """Return the tokens of conversations: of their contents, and of what the template puts around them."""
        counts = np.zeros(len(rows), np.uint32)
        texts: list[Any] = []
        pieces: list[bytes] | None = None if encoded is None else []
        numbers, sizes, rest, first = [], [], [], 0
        for number, row in enumerate(rows):
            contents, own = [message["content"] for message in row], len(row)
            around = self._around(tuple([message["role"] for message in row]))
            if around is None or self._is_special(row, contents):
                rest.append(number)
            else:
                counts[number] = around
                numbers.append(number)
                sizes.append(own)
                texts += contents
                if pieces is not None and encoded is not None:
                    pieces += encoded[first : first + own]
            first += own
        if numbers:
            found, _ = self._encode(texts, whole=False, encoded=pieces)
            counts[numbers] += np.add.reduceat(found, np.cumsum([0, *sizes[:-1]]))
        if rest:
            counts[rest] = self._whole_rows([rows[number] for number in rest])
        return counts

    def _around(self, roles: tuple[str, ...]) -> int | None:
        """Return the tokens of the template's own text around contents; None where they cannot be told apart."""
        if roles not in self._arounds:
            frame = None if roles[0] == TOOLS else self._frame(roles)
            if frame is None and len(self._arounds) >= _MANY_ROLES:
                return None
            apart = frame is not None and self._joints.part(frame)
            counts, _ = self._encode(frame, whole=False) if apart and frame else (np.zeros(0, np.uint32), None)
            self._arounds[roles] = int(counts.sum()) if apart else None
        return self._arounds[roles]

    def _documents(self, texts: list[str], encoded: Sequence[bytes] | None) -> NDArray[np.uint32]:
        """Return the tokens of documents, with the token that ends one."""
        counts, last = self._encode(texts, whole=True, encoded=encoded)
        end = self.base.end_id
        return counts if end is None else counts + (last != end).astype(np.uint32)

    def _encode(
        self, texts: Sequence[str], *, whole: bool, encoded: Sequence[bytes] | None = None
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the tokens of each text and the last of them (`FastTokenizer.encode`); `whole` adds what one gets."""
        if self._fast is not None:
            return self._fast.encode(texts, whole=whole, encoded=encoded)
        found = self.base.tokenizer.encode_batch_fast(list(texts), add_special_tokens=whole)
        counts = np.fromiter((len(one.ids) for one in found), np.uint32, len(texts))
        return counts, np.fromiter((one.ids[-1] if one.ids else -1 for one in found), np.int64, len(texts))

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
            if len(message) > 2 or type(content) is not str or not content:  # noqa: PLR2004 - role and content
                return True
            if content[0].isspace() or content[-1].isspace():
                return True
            for word in self._own_words:
                if word in content:
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
