# ruff: noqa: N803, N815 - shapes stand in names
"""Which inputs of an adapter are dropped: a hash of seed, step, layer, module, token and element. Knows no generator.

A mask that is a function of its place needs no memory: the backward pass, a recomputed layer and a resumed run find the
same one, however the tokens were split into passes. 16 bits of a 32-bit hash decide one element, so that a share is
exact to 1/65536. The mixer is Chris Wellons's `lowbias32` (https://nullprogram.com/blog/2018/07/31/).
"""

from dataclasses import dataclass, field

import torch

LEVELS = 65536
_WORD = 0xFFFFFFFF
GOLDEN, FIRST, SECOND = 0x9E3779B9, 0x7FEB352D, 0x846CA68B


def mixed(value: int) -> int:
    """Return `value` (32 bits) so mixed that each bit depends on all others."""
    value = ((value ^ (value >> 16)) * FIRST) & _WORD
    value = ((value ^ (value >> 15)) * SECOND) & _WORD
    return value ^ (value >> 16)


def key_of(*places: int) -> int:
    """Return the 32-bit key of a mask, of seed, layer and module; or where a step's numbers begin."""
    key = 0
    for place in places:
        key = mixed((key + GOLDEN + place) & _WORD)
    return key


def numbers(tokens: torch.Tensor, start: int) -> torch.Tensor:
    """Return the numbers, int32, of tokens that are counted within an optimizer step; `start` is the step's own.

    Steps begin anywhere in the 2³² numbers, so that the keys, which stand in launched kernels, need not change.
    """
    return ((tokens + start + (1 << 31)) % (1 << 32) - (1 << 31)).to(torch.int32)


@dataclass(slots=True)
class Dropout:
    """The masks of the layers that read one input.

    Args:
        keys: one for each layer.
        threshold: of LEVELS, the share that is dropped.
        rows_T: number of each token, int32; see `numbers`.
        remember: keep masks once made, for the backward pass, instead of making them again.
    """

    keys: tuple[int, ...]
    threshold: int
    rows_T: torch.Tensor
    remember: bool = False
    _masks: dict[int, torch.Tensor] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What is kept counts this much, so that the mean stays."""
        return LEVELS / (LEVELS - self.threshold)

    def mask(self, part: int, width: int) -> torch.Tensor:
        """Return where the inputs of layer `part` are kept, bool [T, width]."""
        if part not in self._masks:
            mask = keep_mask(self.keys[part], self.threshold, self.rows_T, width)
            if not self.remember:
                return mask
            self._masks[part] = mask
        return self._masks[part]


def keep_mask(key: int, threshold: int, rows_T: torch.Tensor, width: int) -> torch.Tensor:
    """Return the mask of a key, bool [T, width]; `width` is even."""
    rows = _mixed(rows_T * _signed(GOLDEN) + _signed(key))
    pairs = torch.arange(width // 2, dtype=torch.int32, device=rows_T.device) * _signed(GOLDEN)
    words = _mixed(rows[:, None] + pairs)
    mask = torch.empty(*words.shape, 2, dtype=torch.bool, device=words.device)
    torch.ge(words & 0xFFFF, threshold, out=mask[..., 0])
    torch.ge((words >> 16) & 0xFFFF, threshold, out=mask[..., 1])
    return mask.view(len(rows_T), width)


def _mixed(words: torch.Tensor) -> torch.Tensor:
    """As `mixed`, on int32 in place: products wrap, and shifts are masked as they carry the sign along."""
    words ^= (words >> 16) & 0xFFFF
    words *= _signed(FIRST)
    words ^= (words >> 15) & 0x1FFFF
    words *= _signed(SECOND)
    words ^= (words >> 16) & 0xFFFF
    return words


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word
