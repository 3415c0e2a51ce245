"""A model of static embeddings: a vector for each token of a tokenizer, a text's vector is the mean of its tokens'.

A folder as model2vec and WordLlama make them: `tokenizer.json` and one safetensors file with one matrix, tokens × width.
No code is run from it and nothing is fetched. Means are summed in a fixed order, so that they are the same on every
machine. Knows no rows.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.dataprep.compiling import compiled

_TOKENIZER, _WEIGHTS = "tokenizer.json", "*.safetensors"
_DIGEST_CHUNK = 1 << 20


class EmbeddingModel:
    """A loaded model.

    Args:
        tokenizer: text → token numbers.
        vectors: tokens × width.
    """

    def __init__(self, tokenizer: Tokenizer, vectors: NDArray[np.float32]) -> None:
        self._tokenizer = tokenizer
        self._vectors = vectors

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a model from its folder.

        Raises:
            InvalidSpec: it is no model of static embeddings; what was expected is named.
        """
        tokenizer_file, weights_file = model_files(folder)
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer_file))
            with safe_open(str(weights_file), "numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping, a reader
        except (SafetensorError, TypeError, ValueError, OSError) as error:
            raise _no_model(folder, f"it cannot be loaded: {error}") from error
        except Exception as error:  # the tokenizers package raises bare Exception
            raise _no_model(folder, f"tokenizer.json cannot be loaded: {error}") from error
        matrices = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2}  # noqa: PLR2004 - a matrix
        if len(matrices) != 1 or len(tensors) != 1:
            raise _no_model(folder, f"one matrix of vectors is expected, it has {', '.join(sorted(tensors)) or 'none'}")
        (vectors,) = matrices.values()
        if tokenizer.get_vocab_size() > len(vectors):
            raise _no_model(folder, f"{tokenizer.get_vocab_size():,} tokens, but {len(vectors):,} vectors")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, np.ascontiguousarray(vectors, np.float32))

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self._vectors.shape[1]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return n × width; each row of length 1, or all 0 for a text without tokens."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.array(one.ids, np.int64) for one in found]
        ends = np.cumsum([len(one) for one in ids], dtype=np.int64)
        out = np.zeros((len(texts), self.width), np.float32)
        _means(np.concatenate(ids) if ids else np.zeros(0, np.int64), ends, self._vectors, out)
        return out


def find_model(root: str, name: str, digest: str) -> Path:
    """Return the folder of a model below the root.

    Raises:
        InvalidSpec: there is no such folder, it is no model, or not the one that was asked for.
    """
    if not root:
        raise _no_model(Path(name), "this service was told of no folder with models; set TUNEWRIGHT_EMBEDDING_ROOT")
    folder = (Path(root) / name).resolve()
    if not folder.is_relative_to(Path(root).resolve()) or not folder.is_dir():
        raise _no_model(Path(name), "there is no such folder below TUNEWRIGHT_EMBEDDING_ROOT")
    own = digest_of(folder)
    if digest and digest != own:
        raise _no_model(folder, f"its digest is {own}, asked for was {digest}")
    return folder


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of a model's files."""
    found = hashlib.sha256()
    for path in model_files(folder):
        with path.open("rb") as file:
            while chunk := file.read(_DIGEST_CHUNK):
                found.update(chunk)
        found.update(b"\0")
    return found.hexdigest()




def model_files(folder: Path) -> tuple[Path, Path]:
    """Return a model's tokenizer and weights.

    Raises:
        InvalidSpec: one is missing, or there are several.
    """
    tokenizer, weights = folder / _TOKENIZER, sorted(folder.glob(_WEIGHTS))
    if not tokenizer.is_file() or len(weights) != 1:
        raise _no_model(folder, f"{_TOKENIZER} and one {_WEIGHTS} are expected")
    return tokenizer, weights[0]


def _no_model(folder: Path, why: str) -> InvalidSpec:
    text = f"{folder.name} is no model of static embeddings: {why}"
    remedy = "Give a folder as model2vec saves it (tokenizer.json, model.safetensors), or leave semantic.model empty."
    return InvalidSpec(f"semantic.model: {text}", remedy=remedy, violations=[Violation("semantic.model", text)])


@compiled
def _means(
    ids: NDArray[np.int64], ends: NDArray[np.int64], vectors: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    start = 0
    total = np.zeros(vectors.shape[1], np.float64)
    for row in range(len(ends)):
        total[:] = 0
        for at in range(start, ends[row]):
            for column in range(len(total)):
                total[column] += vectors[ids[at], column]
        start = ends[row]
        length = 0.0
        for column in range(len(total)):
            length += total[column] * total[column]
        if length > 0:
            scale = 1 / np.sqrt(length)
            for column in range(len(total)):
                out[row, column] = total[column] * scale
