"""How much memory a pass of the fast path takes, and which passes are fastest within what there is.

Arithmetic alone, without torch, so that a run can be planned before anything is loaded. Knows sizes, no values.
"""

from collections.abc import Sequence
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
    HOST = "host"
    """As INPUT, with the input in host memory until the backward pass comes for it."""


@dataclass(frozen=True, slots=True)
class _Speed:
    """How fast passes of so many tokens are, relative to the fastest."""

    kept: float
    """With everything kept. Measured on an H100 with a 7B shape, see docs/performance.md; between these an estimate;
    smaller cards are filled by fewer tokens, so that the order stays and the differences shrink."""
    layers_away: float
    """Times this with weights that come from host memory for each layer. On an H100 passes of 4,096 lost nothing that
    was seen; slower cards, which compute longer, wait less for the copies."""
    head_away: float
    """Times this with a head that comes twice a pass. With both away passes of 2,048 lost 12 % on an H100; how that
    divides, and the others, are estimates."""


_SPEED = {
    1024: _Speed(0.65, 0.8, 0.85),
    2048: _Speed(0.82, 0.95, 0.93),
    4096: _Speed(0.94, 1.0, 0.96),
    6144: _Speed(0.945, 1.0, 0.97),
    8192: _Speed(0.97, 1.0, 0.98),
    12288: _Speed(0.985, 1.0, 0.985),
    16384: _Speed(1.0, 1.0, 0.99),
}
_AGAIN = {Keep.ALL: 0.0, Keep.ATTENTION: 0.18, Keep.INPUT: 0.30, Keep.HOST: 0.33}
"""Time that a layer takes more when it is computed again, likewise; with its input in host memory: an estimate."""
_EMBEDDING_AWAY = 0.99
"""Speed with the embedding in host memory, relative to it on the GPU: an estimate."""
MARGIN = 0.96
"""Share of a GPU's budget that is planned with; the rest is what the allocator cannot fill."""
FIXED = 0.9e9
"""Bytes for logits with their gradient, the libraries' own workspaces and small tensors."""
LOGITS = 256 * 2**20
"""Bytes of logits in hand at once, in the compute type."""
FEW_LOGITS = 64 * 2**20
"""The same where memory is so short that something of the model lies in host memory."""
HEAD_TILE = 64 * 2**20
"""Bytes of a tile of a head that lies in host memory; two are on the GPU."""
FEWER_LOGITS = 0.65e9
"""Bytes that those save, with the libraries' workspaces for them. This, FIXED and MARGIN are fitted to what PyTorch had
reserved on an H100 in the eighteen runs of the fast path in bench/results/vram_plan.json."""
_GRADIENT_AND_COPY = 4 + 4
_STATE = {"adamw_torch": 8}
_STATE_8_BIT = 2


def trained_bytes(optim: str) -> int:
    """Return the bytes that a trained parameter takes beside itself: gradient, optimizer's state, working copies."""
    return _GRADIENT_AND_COPY + _STATE.get(optim, _STATE_8_BIT)


GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Linear layers of one input, which are unpacked together."""
_COLUMNS = 16
"""Columns beside the weights come in multiples of this: matrix units read 16 or 32 bytes at once."""


class Away(Enum):
    """What of the frozen model lies in host memory; each includes the one before."""

    NOTHING = "nothing"
    EMBEDDING = "embedding"
    """Its rows are looked up there. Of models whose head is the embedding nothing is saved."""
    LAYERS = "layers"
    """The layers' 4-bit weights come to the GPU for each layer, while the one before is computed."""
    HEAD = "head"
    """The head comes in tiles of words, twice a pass; of models whose head is the embedding that goes with it."""


@dataclass(frozen=True, slots=True)
class Movable:
    """Bytes of the frozen model that can lie in host memory."""

    embedding: int
    """0 where it is the head as well."""
    layers: int
    """4-bit weights of all layers."""
    head: int = 0
    """But for the tiles that are on the GPU."""

    def saved(self, away: Away, count: int) -> int:
        """Return the bytes of the GPU that are free then, of a model of `count` layers."""
        if away is Away.NOTHING:
            return 0
        layers = self.layers * max(0, count - 2) // count if away in (Away.LAYERS, Away.HEAD) else 0
        head = self.head if away is Away.HEAD else 0
        return self.embedding + layers + head + round(FEWER_LOGITS)


NOT_MOVABLE = Movable(0, 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a step's tokens are gone through."""

    tokens: int
    """In one pass at most; a longer document has a pass of its own."""
    keeps: tuple[Keep, ...]
    """For each layer."""
    away: Away = Away.NOTHING
    """What of the frozen model lies in host memory."""

    @property
    def logits(self) -> int:
        """Bytes of logits in hand at once."""
        return LOGITS if self.away is Away.NOTHING else FEW_LOGITS

    def describe(self) -> str:
        """Return it in words."""
        counts = {keep: self.keeps.count(keep) for keep in Keep}
        words = {
            Keep.ALL: "kept",
            Keep.ATTENTION: "kept but for the MLP",
            Keep.INPUT: "recomputed",
            Keep.HOST: "recomputed from inputs in host memory",
        }
        told = ", ".join(f"{count} layers {words[keep]}" for keep, count in counts.items() if count)
        away = {
            Away.NOTHING: "",
            Away.EMBEDDING: "; the embedding lies in host memory",
            Away.LAYERS: "; the embedding and the layers' weights lie in host memory, two layers at a time on the GPU",
            Away.HEAD: "; the embedding, the layers' weights and the head lie in host memory, two layers and two tiles "
            "of the head at a time on the GPU",
        }
        return f"passes of up to {self.tokens} tokens without padding, {told}{away[self.away]}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes that one token takes in one layer."""

    kept: dict[Keep, int]
    passing: int
    """In the layer at work, at its highest, beside what is kept."""
    moving: int
    """On their way to host memory and back."""

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
        kept = {
            Keep.INPUT: alone,
            Keep.ATTENTION: alone + each * attention,
            Keep.ALL: everything,
            Keep.HOST: alone - each * width,
        }
        return cls(kept, each * (3 * mlp + 6 * width + qkv + attention), 3 * each * width)

    def of_pass(self, tokens: int, keeps: tuple[Keep, ...]) -> int:
        """Return the bytes of a pass at its highest."""
        moving = self.moving if Keep.HOST in keeps else 0
        return tokens * (sum(self.kept[keep] for keep in keeps) + self.passing + moving)


def columns_beside(ranks: int, *, biased: bool) -> int:
    """Return the columns beside a group's weights, for adapters of so many ranks together and for biases."""
    return -(-(ranks + biased) // _COLUMNS) * _COLUMNS


def room_for_passes(budget: float, taken: float, trained: int, workspace: int) -> float:
    """Return the bytes of a GPU that are left for a pass.

    Args:
        budget: bytes that may be planned with, weights included.
        taken: bytes of weights and adapters.
        trained: bytes that training takes beside weights and adapters: gradients, states, copies.
        workspace: bytes of the buffer that weights are unpacked into.
    """
    return budget * MARGIN - taken - FIXED - trained - workspace


def plan_within(
    sizes: Sizes,
    layers: int,
    free_bytes: float,
    longest: int,
    most: int,
    *,
    keep_all: bool,
    movable: Movable = NOT_MOVABLE,
    places: Sequence[Away] = (Away.NOTHING,),
) -> Plan:
    """Return the plan that is estimated fastest of those that take up to `free_bytes`; the smallest if none does.

    Args:
        sizes: of a token in a layer.
        layers: of the model.
        free_bytes: for activations, with what is `movable` on the GPU.
        longest: tokens of the longest row: no pass can be smaller.
        most: tokens of a whole step: no pass needs to be larger.
        keep_all: nothing is computed twice, whatever memory it takes.
        movable: what of the model can still go to host memory.
        places: what of it may lie there.
    """
    steps = sorted({min(max(tokens, longest), most) for tokens in _SPEED} | {longest})
    if keep_all:
        fitting = [tokens for tokens in steps if sizes.of_pass(tokens, (Keep.ALL,) * layers) <= free_bytes]
        return Plan(fitting[-1] if fitting else longest, (Keep.ALL,) * layers, places[0])
    plans = [
        _most_kept(sizes, layers, free_bytes + movable.saved(away, layers), tokens, away)
        for away in places
        for tokens in steps
    ]
    found = [plan for plan in plans if plan is not None]
    return max(found, key=speed_of) if found else Plan(longest, (Keep.HOST,) * layers, places[-1])


def _most_kept(sizes: Sizes, layers: int, free_bytes: float, tokens: int, away: Away) -> Plan | None:
    """Return the plan with passes of `tokens` that keeps the most; None if not even the least fits."""
    least = Keep.INPUT
    if sizes.of_pass(tokens, (least,) * layers) > free_bytes:
        least = Keep.HOST
    left = free_bytes - sizes.of_pass(tokens, (least,) * layers)
    if left < 0:
        return None
    attention, everything = (tokens * (sizes.kept[keep] - sizes.kept[least]) for keep in (Keep.ATTENTION, Keep.ALL))
    whole = min(layers, int(left // everything))
    partly = min(layers - whole, int((left - whole * everything) // attention))
    # The last layers keep the most: theirs is freed first, before the backward pass needs room of its own.
    keeps = (least,) * (layers - whole - partly) + (Keep.ATTENTION,) * partly + (Keep.ALL,) * whole
    return Plan(tokens, keeps, away)


def speed_of(plan: Plan) -> float:
    """Return the speed of a plan, relative to the fastest there is."""
    known = _SPEED[max((tokens for tokens in _SPEED if tokens <= plan.tokens), default=min(_SPEED))]
    again = sum(_AGAIN[keep] for keep in plan.keeps) / len(plan.keeps)
    away = 1.0 if plan.away is Away.NOTHING else _EMBEDDING_AWAY
    away *= known.layers_away if plan.away in (Away.LAYERS, Away.HEAD) else 1
    away *= known.head_away if plan.away is Away.HEAD else 1
    return known.kept * away / (1 + again)
