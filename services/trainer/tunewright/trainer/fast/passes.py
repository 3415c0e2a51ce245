"""How much memory a pass of the fast path takes, and which passes are fastest within what there is.

Arithmetic alone, without torch, so that a run can be planned before anything is loaded. Knows sizes, no values.
"""

from dataclasses import dataclass
from enum import Enum


class Keep(Enum):
    """What of a layer's forward pass stays in memory."""

    ALL = "all"
    """Everything but what is cheap to make again elementwise."""
    ATTENTION = "attention"
    """As ALL without gate and up: their product is formed twice."""
    INPUT = "input"
    """The layer's input alone: the layer is computed twice but for its last product."""


_SPEED = {1024: 0.75, 2048: 0.87, 4096: 0.95, 8192: 0.97, 16384: 1.0}
"""Relative speed of passes of so many tokens with everything kept: measured on an H100 with a 7B shape, see
docs/performance.md. Smaller cards are filled by fewer tokens, so that the order stays and the differences shrink."""
_AGAIN = {Keep.ALL: 0.0, Keep.ATTENTION: 0.18, Keep.INPUT: 0.30}
"""Time that a layer takes more when it is computed again, likewise."""
MARGIN = 0.94
"""Share of a GPU's budget that is planned with; the rest is what the allocator cannot fill."""
FIXED = 1.2e9
"""Bytes for logits with their gradient, the library's own workspaces and small tensors."""
OPTIMIZER = 4 + 8 + 2
"""Bytes a trained parameter takes beside itself: gradient, optimizer state at its largest, working copy."""

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Linear layers of one input, which are unpacked together."""
_COLUMNS = 16
"""Columns beside the weights come in multiples of this: matrix units read 16 or 32 bytes at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a step's tokens are gone through."""

    tokens: int
    """In one pass at most; a longer document has a pass of its own."""
    keeps: tuple[Keep, ...]
    """For each layer."""

    def describe(self) -> str:
        """Return it in words."""
        counts = {keep: self.keeps.count(keep) for keep in Keep}
        words = {Keep.ALL: "kept", Keep.ATTENTION: "kept but for the MLP", Keep.INPUT: "recomputed"}
        told = ", ".join(f"{count} layers {words[keep]}" for keep, count in counts.items() if count)
        return f"passes of up to {self.tokens} tokens without padding, {told}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes that one token takes in one layer."""

    kept: dict[Keep, int]
    passing: int
    """In the layer at work, at its highest, beside what is kept."""

    @classmethod
    def of_layer(cls, *, width: int, mlp: int, qkv: int, attended: int, heads: int, ranks: int, each: int) -> "Sizes":
        """Return the sizes of a decoder layer.

        Args:
            width: of the residual stream.
            mlp: width of the MLP.
            qkv: outputs of the three projections together.
            attended: inputs of the output projection.
            heads: of the queries.
            ranks: of the layer's adapters, added up.
            each: bytes of a value in the compute type.
        """
        attention = width + qkv + attended + heads * 4 // each
        alone = each * (width + ranks) + 8
        everything = alone + each * (attention + 2 * mlp)
        kept = {Keep.INPUT: alone, Keep.ATTENTION: alone + each * attention, Keep.ALL: everything}
        return cls(kept, each * (4 * mlp + 6 * width + qkv + attention))

    def of_pass(self, tokens: int, keeps: tuple[Keep, ...]) -> int:
        """Return the bytes of a pass at its highest."""
        return tokens * (sum(self.kept[keep] for keep in keeps) + self.passing)


def columns_beside(ranks: int, *, biased: bool) -> int:
    """Return the columns beside a group's weights, for adapters of so many ranks together and for biases."""
    return -(-(ranks + biased) // _COLUMNS) * _COLUMNS


def room_for_passes(budget: float, taken: float, trained: int, workspace: int) -> float:
    """Return the bytes of a GPU that are left for a pass.

    Args:
        budget: bytes that may be planned with, weights included.
        taken: bytes of weights and adapters.
        trained: parameters of the adapters.
        workspace: bytes of the buffer that weights are unpacked into.
    """
    return budget * MARGIN - taken - FIXED - trained * OPTIMIZER - workspace


def plan_within(sizes: Sizes, layers: int, free_bytes: float, longest: int, most: int, *, keep_all: bool) -> Plan:
    """Return the plan that is estimated fastest of those that take up to `free_bytes`.

    Args:
        sizes: of a token in a layer.
        layers: of the model.
        free_bytes: for activations.
        longest: tokens of the longest row: no pass can be smaller.
        most: tokens of a whole step: no pass needs to be larger.
        keep_all: nothing is computed twice, whatever memory it takes.
    """
    steps = sorted({min(max(tokens, longest), most) for tokens in _SPEED} | {longest})
    if keep_all:
        fitting = [tokens for tokens in steps if sizes.of_pass(tokens, (Keep.ALL,) * layers) <= free_bytes]
        return Plan(fitting[-1] if fitting else longest, (Keep.ALL,) * layers)
    plans = [_most_kept(sizes, layers, free_bytes, tokens) for tokens in steps]
    found = [plan for plan in plans if plan is not None]
    return max(found, key=speed_of) if found else Plan(longest, (Keep.INPUT,) * layers)


def _most_kept(sizes: Sizes, layers: int, free_bytes: float, tokens: int) -> Plan | None:
    """Return the plan with passes of `tokens` that keeps the most; None if not even the inputs fit."""
    left = free_bytes - sizes.of_pass(tokens, (Keep.INPUT,) * layers)
    if left < 0:
        return None
    attention, everything = (
        tokens * (sizes.kept[keep] - sizes.kept[Keep.INPUT]) for keep in (Keep.ATTENTION, Keep.ALL)
    )
    whole = min(layers, int(left // everything))
    partly = min(layers - whole, int((left - whole * everything) // attention))
    # The last layers keep the most: theirs is freed first, before the backward pass needs room of its own.
    keeps = (Keep.INPUT,) * (layers - whole - partly) + (Keep.ATTENTION,) * partly + (Keep.ALL,) * whole
    return Plan(tokens, keeps)


def speed_of(plan: Plan) -> float:
    """Return the speed of a plan, relative to the fastest there is."""
    known = max((tokens for tokens in _SPEED if tokens <= plan.tokens), default=min(_SPEED))
    again = sum(_AGAIN[keep] for keep in plan.keeps) / len(plan.keeps)
    return _SPEED[known] / (1 + again)
