"""A model of static embeddings: a vector for each token of a tokenizer, a text's vector is the mean of its tokens'.

A folder as model2vec and WordLlama make them: `tokenizer.json` and one safetensors file with one matrix, tokens ×
width. No code is run from it and nothing is fetched. Means are summed in a fixed order, so that they are the same on
every machine. Knows no rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from tunewright.dataprep.compiling import compiled
from tunewright.dataprep.semantic.folder import model_files, no_model


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
            raise no_model(folder, f"it cannot be loaded: {error}") from error
        except Exception as error:  # the tokenizers package raises bare Exception
            raise no_model(folder, f"tokenizer.json cannot be loaded: {error}") from error
        matrices = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2}  # noqa: PLR2004 - a matrix
        if len(matrices) != 1 or len(tensors) != 1:
            raise no_model(folder, f"one matrix of vectors is expected, it has {', '.join(sorted(tensors)) or 'none'}")
        (vectors,) = matrices.values()
        if tokenizer.get_vocab_size() > len(vectors):
            raise no_model(folder, f"{tokenizer.get_vocab_size():,} tokens, but {len(vectors):,} vectors")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(tokenizer, np.ascontiguousarray(vectors, np.float32))

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self._vectors.shape[1])

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return n × width; each row of length 1, or all 0 for a text without tokens."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [np.array(one.ids, np.int64) for one in found]
        ends = np.cumsum([len(one) for one in ids], dtype=np.int64)
        out = np.zeros((len(texts), self.width), np.float32)
        _means(np.concatenate(ids) if ids else np.zeros(0, np.int64), ends, self._vectors, out)
        return out


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
