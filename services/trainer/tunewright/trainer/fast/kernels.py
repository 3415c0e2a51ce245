# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# ruff: noqa: ANN001, ANN201, ANN202, N803, PLR2004 - Triton's functions are typed by Triton, shapes stand in names
"""The Triton kernels of the fast path's elementwise parts. What each means stands in `arithmetic.py`.

Accumulations are in float32 and have a fixed order, so that two runs give the same bits. Knows strides, no model.
"""

import triton
import triton.language as tl

GOLDEN = tl.constexpr(0x9E3779B9)
FIRST = tl.constexpr(0x7FEB352D)
SECOND = tl.constexpr(0x846CA68B)
VARYING = ("key0", "key1", "key2", "threshold", "tokens")
"""Arguments that differ from call to call: Triton would compile a kernel anew for some of their values."""


@triton.jit
def _mixed(word):
    word = word ^ (word >> 16)
    word = word * FIRST
    word = word ^ (word >> 15)
    word = word * SECOND
    return word ^ (word >> 16)


@triton.jit
def _row_keys(rows, key):
    """As `dropout.keep_mask`: what the elements of each row are mixed with."""
    return _mixed(rows.to(tl.uint32) * GOLDEN + key.to(tl.uint32))


@triton.jit
def _kept(row_keys, columns, threshold):
    words = _mixed(row_keys[:, None] + (columns >> 1).to(tl.uint32)[None, :] * GOLDEN)
    draw = (words >> ((columns & 1) * 16).to(tl.uint32)[None, :]) & 0xFFFF
    return draw >= threshold.to(tl.uint32)


@triton.jit
def unpack(
    packed, absmax8, codes2, absmax2, offset, codes, out, stride, blocks,
    ROW_BLOCKS: tl.constexpr, NESTED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """NF4 blocks of 64 weights, with constants that are quantised themselves (groups of 256) or float32."""
    block = tl.program_id(0) * TILE + tl.arange(0, TILE)
    there = block < blocks
    row, column = block // ROW_BLOCKS, block % ROW_BLOCKS
    byte = tl.arange(0, 32)
    at = block.to(tl.int64)[:, None] * 32 + byte[None, :]
    word = tl.load(packed + at, mask=there[:, None], other=0).to(tl.int32)
    if NESTED:
        code = tl.load(absmax8 + block, mask=there, other=0).to(tl.int32)
        largest = tl.load(codes2 + code) * tl.load(absmax2 + block // 256, mask=there, other=0.0) + tl.load(offset)
    else:
        largest = tl.load(absmax8 + block, mask=there, other=0.0)
    high = tl.load(codes + (word >> 4)) * largest[:, None]
    low = tl.load(codes + (word & 15)) * largest[:, None]
    values = tl.reshape(tl.join(high, low), (TILE, 64))
    to = out + (row.to(tl.int64) * stride + column * 64)[:, None] + tl.arange(0, 64)[None, :]
    tl.store(to, values.to(out.dtype.element_ty), mask=there[:, None])


@triton.jit
def add_norm(
    x, x_stride, delta, delta_stride, total, weight, factors, out, out_stride, eps, width,
    ADDS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    there = column < width
    value = tl.load(x + row * x_stride + column, mask=there, other=0.0).to(tl.float32)
    if ADDS:
        value += tl.load(delta + row * delta_stride + column, mask=there, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * width + column, rounded, mask=there)
        value = rounded.to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(value * value, 0) / width + eps)
    tl.store(factors + row, factor)
    scale = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + column, (value * factor * scale).to(out.dtype.element_ty), mask=there)


@triton.jit
def norm_backward(grad, x, x_stride, weight, factors, into, width, TILE: tl.constexpr):
    """One row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    there = column < width
    back = tl.load(grad + row * width + column, mask=there, other=0.0).to(tl.float32)
    back *= tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    factor = tl.load(factors + row)
    normal = tl.load(x + row * x_stride + column, mask=there, other=0.0).to(tl.float32) * factor
    found = factor * (back - normal * (tl.sum(back * normal, 0) / width))
    found += tl.load(into + row * width + column, mask=there, other=0.0).to(tl.float32)
    tl.store(into + row * width + column, found.to(into.dtype.element_ty), mask=there)


@triton.jit
def rotate(
    x, x_stride, out, out_stride, cos, sin, heads,
    WIDTH: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """One token a program; HALF is half of WIDTH rounded up to a power of two."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, HALF)
    inside = column < WIDTH // 2
    cosine = tl.load(cos + row * WIDTH + column, mask=inside, other=0.0)[None, :]
    sine = tl.load(sin + row * WIDTH + column, mask=inside, other=0.0)[None, :]
    head = tl.arange(0, HEADS)
    there = (head < heads)[:, None] & inside[None, :]
    at = head[:, None] * WIDTH + column[None, :]
    left = tl.load(x + row * x_stride + at, mask=there, other=0.0).to(tl.float32)
    right = tl.load(x + row * x_stride + at + WIDTH // 2, mask=there, other=0.0).to(tl.float32)
    kind = out.dtype.element_ty
    tl.store(out + row * out_stride + at, (left * cosine - right * sine).to(kind), mask=there)
    tl.store(out + row * out_stride + at + WIDTH // 2, (right * cosine + left * sine).to(kind), mask=there)


@triton.jit(do_not_specialize=("tokens",))
def swiglu(gate_up, out, out_stride, tokens, width, ROWS: tl.constexpr, TILE: tl.constexpr):
    """A tile a program."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    there = (row < tokens)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * (2 * width) + column[None, :]
    gate = tl.load(gate_up + at, mask=there, other=0.0).to(tl.float32)
    up = tl.load(gate_up + at + width, mask=there, other=0.0).to(tl.float32)
    to = out + row.to(tl.int64)[:, None] * out_stride + column[None, :]
    tl.store(to, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=("tokens",))
def swiglu_backward(gate_up, grad, tokens, width, ROWS: tl.constexpr, TILE: tl.constexpr):
    """A tile a program, in place."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    there = (row < tokens)[:, None] & (column < width)[None, :]
    at = row.to(tl.int64)[:, None] * (2 * width) + column[None, :]
    to = row.to(tl.int64)[:, None] * width + column[None, :]
    gate = tl.load(gate_up + at, mask=there, other=0.0).to(tl.float32)
    up = tl.load(gate_up + at + width, mask=there, other=0.0).to(tl.float32)
    back = tl.load(grad + to, mask=there, other=0.0).to(tl.float32)
    opened = 1.0 / (1.0 + tl.exp(-gate))
    active = gate * opened
    kind = gate_up.dtype.element_ty
    tl.store(gate_up + at, (back * up * (opened + active * (1.0 - opened))).to(kind), mask=there)
    tl.store(gate_up + at + width, (back * active).to(kind), mask=there)
    tl.store(grad + to, (active * up).to(kind), mask=there)


@triton.jit(do_not_specialize=VARYING)
def adapter_inputs(
    x, x_stride, down, out, out_stride, rows, key0, key1, key2, threshold, scale, tokens, width: tl.constexpr,
    RANK: tl.constexpr, RANKS: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """[ROWS, K] of inputs a program: each tile is read once for all adapters. RANKS is RANK as a power of two."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    present = row < tokens
    number = tl.load(rows + row, mask=present, other=0)
    keys0, keys1, keys2 = _row_keys(number, key0), _row_keys(number, key1), _row_keys(number, key2)
    rank = tl.arange(0, RANKS)
    sum0 = tl.zeros((ROWS, RANKS), tl.float32)
    sum1 = tl.zeros((ROWS, RANKS), tl.float32)
    sum2 = tl.zeros((ROWS, RANKS), tl.float32)
    for begin in range(0, width, TILE):
        column = begin + tl.arange(0, TILE)
        inside = column < width
        tile = tl.load(
            x + row.to(tl.int64)[:, None] * x_stride + column[None, :],
            mask=present[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        at = down + rank[None, :] * width + column[:, None]
        there = inside[:, None] & (rank < RANK)[None, :]
        none = tl.zeros_like(tile)
        sum0 += tl.dot(tl.where(_kept(keys0, column, threshold), tile, none), tl.load(at, mask=there, other=0.0))
        if PARTS > 1:
            weights = tl.load(at + RANK * width, mask=there, other=0.0)
            sum1 += tl.dot(tl.where(_kept(keys1, column, threshold), tile, none), weights)
        if PARTS > 2:
            weights = tl.load(at + 2 * RANK * width, mask=there, other=0.0)
            sum2 += tl.dot(tl.where(_kept(keys2, column, threshold), tile, none), weights)
    to = out + row.to(tl.int64)[:, None] * out_stride + rank[None, :]
    there = present[:, None] & (rank < RANK)[None, :]
    kind = out.dtype.element_ty
    tl.store(to, (sum0 * scale).to(kind), mask=there)
    if PARTS > 1:
        tl.store(to + RANK, (sum1 * scale).to(kind), mask=there)
    if PARTS > 2:
        tl.store(to + 2 * RANK, (sum2 * scale).to(kind), mask=there)


@triton.jit(do_not_specialize=VARYING)
def adapter_input_gradient(
    grad, down, into, rows, key0, key1, key2, threshold, scale, tokens, width: tl.constexpr,
    RANK: tl.constexpr, RANKS: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A tile of `into` a program."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    present, inside = row < tokens, column < width
    number = tl.load(rows + row, mask=present, other=0)
    rank = tl.arange(0, RANKS)
    found = tl.zeros((ROWS, TILE), tl.float32)
    for part in tl.static_range(PARTS):
        key = key0 if part == 0 else (key1 if part == 1 else key2)
        at = grad + row.to(tl.int64)[:, None] * (PARTS * RANK) + part * RANK + rank[None, :]
        back = tl.load(at, mask=present[:, None] & (rank < RANK)[None, :], other=0.0)
        at = down + (part * RANK + rank)[:, None] * width + column[None, :]
        weights = tl.load(at, mask=(rank < RANK)[:, None] & inside[None, :], other=0.0)
        kept = _kept(_row_keys(number, key), column, threshold)
        found += tl.where(kept, tl.dot(back, weights), 0.0)
    to = into + row.to(tl.int64)[:, None] * width + column[None, :]
    there = present[:, None] & inside[None, :]
    found = found * scale + tl.load(to, mask=there, other=0.0).to(tl.float32)
    tl.store(to, found.to(into.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=VARYING)
def adapter_down_gradient(
    grad, x, x_stride, out, rows, key0, key1, key2, threshold, scale, tokens, width: tl.constexpr,
    EACH: tl.constexpr, RANK: tl.constexpr, RANKS: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """TILE columns over EACH tokens a program; the sums over all tokens are formed afterwards, in order."""
    column = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = column < width
    rank = tl.arange(0, RANKS)
    sum0 = tl.zeros((RANKS, TILE), tl.float32)
    sum1 = tl.zeros((RANKS, TILE), tl.float32)
    sum2 = tl.zeros((RANKS, TILE), tl.float32)
    first = tl.program_id(1) * EACH
    for begin in range(0, EACH, ROWS):
        row = first + begin + tl.arange(0, ROWS)
        present = row < tokens
        number = tl.load(rows + row, mask=present, other=0)
        at = row.to(tl.int64)[:, None] * x_stride + column[None, :]
        tile = tl.load(x + at, mask=present[:, None] & inside[None, :], other=0.0)
        none = tl.zeros_like(tile)
        at = grad + row.to(tl.int64)[None, :] * (PARTS * RANK) + rank[:, None]
        there = present[None, :] & (rank < RANK)[:, None]
        kept = tl.where(_kept(_row_keys(number, key0), column, threshold), tile, none)
        sum0 += tl.dot(tl.load(at, mask=there, other=0.0), kept)
        if PARTS > 1:
            kept = tl.where(_kept(_row_keys(number, key1), column, threshold), tile, none)
            sum1 += tl.dot(tl.load(at + RANK, mask=there, other=0.0), kept)
        if PARTS > 2:
            kept = tl.where(_kept(_row_keys(number, key2), column, threshold), tile, none)
            sum2 += tl.dot(tl.load(at + 2 * RANK, mask=there, other=0.0), kept)
    to = out + (tl.program_id(1) * (PARTS * RANK) + rank)[:, None].to(tl.int64) * width + column[None, :]
    there = (rank < RANK)[:, None] & inside[None, :]
    tl.store(to, sum0 * scale, mask=there)
    if PARTS > 1:
        tl.store(to + RANK * width, sum1 * scale, mask=there)
    if PARTS > 2:
        tl.store(to + 2 * RANK * width, sum2 * scale, mask=there)


@triton.jit
def cross_entropy(logits, labels, losses, right, scale, words: tl.constexpr, TILE: tl.constexpr):
    """One row a program, in two passes: the sum, then the gradient in place."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    base = logits + row * words
    wanted = tl.load(base + label).to(tl.float32)
    highest = tl.full((TILE,), -float("inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    for begin in range(0, words, TILE):
        column = begin + tl.arange(0, TILE)
        value = tl.load(base + column, mask=column < words, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(highest, value)
        total = total * tl.exp(highest - tl.maximum(higher, -1e30)) + tl.exp(value - tl.maximum(higher, -1e30))
        highest = higher
    top = tl.max(highest, 0)
    log_sum = top + tl.log(tl.sum(total * tl.exp(highest - top), 0))
    tl.store(losses + row, log_sum - wanted)
    tl.store(right + row, (wanted >= top).to(tl.int64))
    for begin in range(0, words, TILE):
        column = begin + tl.arange(0, TILE)
        value = tl.load(base + column, mask=column < words, other=-float("inf")).to(tl.float32)
        share = tl.exp(value - log_sum)
        share = tl.where(column == label, share - 1.0, share) * scale
        tl.store(base + column, share.to(logits.dtype.element_ty), mask=column < words)


@triton.jit
def add_to_sums(logits, labels, highest, total, wanted, words, TILE: tl.constexpr):
    """One row a program."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    base = logits + row * words
    top = tl.full((TILE,), -float("inf"), tl.float32)
    sums = tl.zeros((TILE,), tl.float32)
    for begin in range(0, words, TILE):
        column = begin + tl.arange(0, TILE)
        value = tl.load(base + column, mask=column < words, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, value)
        sums = sums * tl.exp(top - tl.maximum(higher, -1e30)) + tl.exp(value - tl.maximum(higher, -1e30))
        top = higher
    before = tl.load(highest + row)
    after = tl.maximum(before, tl.max(top, 0))
    found = tl.sum(sums * tl.exp(top - after), 0) + tl.load(total + row) * tl.exp(before - after)
    tl.store(highest + row, after)
    tl.store(total + row, found)
    if (label >= 0) & (label < words):
        tl.store(wanted + row, tl.load(base + label).to(tl.float32))


@triton.jit
def softmax_gradient(logits, labels, log_sum, scale, words, TILE: tl.constexpr):
    """A tile of one row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    label = tl.load(labels + row)
    at = logits + row * words + column
    value = tl.load(at, mask=column < words, other=-float("inf")).to(tl.float32)
    share = tl.exp(value - tl.load(log_sum + row))
    share = tl.where(column == label, share - 1.0, share) * scale
    tl.store(at, share.to(logits.dtype.element_ty), mask=column < words)
