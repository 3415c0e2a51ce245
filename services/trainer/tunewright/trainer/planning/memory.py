"""Bytes that a run takes at its peak, part by part: on a GPU what PyTorch reserves, on a CPU the process's RSS.

What cannot be counted stands as a constant with the place where it was measured. Each formula says which tensors it
counts, for one token in one layer: D width of the model, F of the MLP, e bytes of the compute type.
"""

import math
from dataclasses import asdict, dataclass, replace

from tunewright.trainer.fast.passes import (
    FEWER_LOGITS,
    FIXED,
    GROUPS,
    HEAD_TILE,
    MARGIN,
    Away,
    Keep,
    Movable,
    Plan,
    Sizes,
    columns_beside,
    plan_within,
    room_for_passes,
    trained_bytes,
)
from tunewright.trainer.planning.counting import Trained, nf4_bytes, targets, trained
from tunewright.trainer.planning.lengths import Lengths, longest_of, rows_of
from tunewright.trainer.planning.machine import Machine
from tunewright.trainer.planning.shapes import Shape
from tunewright.trainer.spec import TrainingSpec

CUDA_CONTEXT = 800_000_000
"""Bytes of a GPU that no allocator sees: 0.74 GiB on an H100, by CUDA's own messages in
bench/results/remedies_gpu_h100.json (in use, less allocated, less reserved)."""
FILLED = 8.33 / 8.65
"""Share of what PyTorch reserves that it fills on the plain path, bench/results/qlora_gpu_h100.json."""
CPU_PROCESS = 610_000_000
"""Bytes of RSS of a process that has trained two steps of a model of 98,816 parameters: Python, PyTorch, TRL
(measured: bench/results/vram_plan.json)."""
HEAP = 0.4
"""Of activations and head, what glibc's heap holds beside them; bench/results/vram_plan.json has each run's."""
HEAP_AGAIN = 0.8
"""The same where layers are computed again, which takes and gives back a layer's blocks for each: 0.7 to 0.9 there."""
_STORED = 2
"""Bytes of a weight in a base's file."""
_FLOAT = 4
"""Bytes of float32."""
_TILE_TOKENS, _TILE_WORDS = 4096, 32768
"""TRL scores so many tokens against so many words of the vocabulary at once (trl 1.16, kernels/chunked_logprob.py)."""
_CPU_TOKENS = 1024
"""Of a pass of the fast path on a CPU (fast/planning.py)."""
_CPU_TILES = 6
"""float32 copies of a tile where there is no Triton: logits, their logarithms, probabilities, gradient and two more."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Parts of the peak, in bytes."""

    weights: int
    """The base, in the type of the method."""
    trained: int
    """Adapters or prompt, in float32; 0 for whole models, whose weights are the base."""
    gradients: int
    optimizer: int
    copies: int
    """Of what is trained: in the compute type for each pass; on a CPU for checkpoints and the best evaluation too."""
    activations: int
    """Kept from the forward to the backward pass, and those of the layer at work."""
    head: int
    """Logits and what is made of them, beyond the moment of the highest activations."""
    fixed: int
    """The process, or the CUDA context."""
    slack: int = 0
    """What the allocator holds and cannot fill."""
    mapped: int = 0
    """Of the base's file, read once and still in RSS: the kernel takes it back where it needs to."""

    @property
    def total(self) -> int:
        """The peak."""
        return sum(asdict(self).values())


@dataclass(frozen=True, slots=True)
class Footprint:
    """The peak of each process of a run, and how it goes about it."""

    memory: Memory
    passes: Plan | None
    """Of the fast path; None on the plain one."""
    processes: int = 1
    """Each on a GPU of its own, or all in the RAM of one machine."""
    host: int = 0
    """Bytes of RAM that what a plan sends from the GPU to host memory takes there, all processes together."""

    def fits(self, machine: Machine) -> bool:
        """Return True if the machine has room for it."""
        every = self.processes if machine.type == "cpu" else 1
        return (self.memory.total - self.memory.mapped) * every <= machine.memory and not self.lacks_host(machine)

    def lacks_host(self, machine: Machine) -> bool:
        """Return True if the machine's RAM is known, and too small for what lies there."""
        return bool(self.host and machine.host) and self.host > machine.host


def footprint(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine) -> Footprint:
    """Return the peak of a run.

    Args:
        shape: of the base.
        spec: of the run.
        lengths: of its rows, as training has them (`Lengths.cut`).
        machine: where it takes place.

    Raises:
        InvalidSpec: modules that the base does not have, or processes that cannot share the effective batch.
    """
    processes = processes_of(spec, machine)
    if processes > 1:
        from tunewright.trainer.ranks.sharing import shared  # noqa: PLC0415 - PyTorch, which few plans have a need of

        spec = shared(spec, processes)
    found = _alone(shape, spec, lengths, machine)
    return replace(found, processes=processes, host=found.host * processes)


def processes_of(spec: TrainingSpec, machine: Machine) -> int:
    """Return how many processes share a run: as asked for, else one for each GPU as far as they divide the batch."""
    if spec.processes:
        return spec.processes
    most = 1 if machine.type == "cpu" or spec.search.trials else machine.count
    return next(count for count in range(most, 0, -1) if spec.batch_rows % count == 0)


def is_sharded(spec: TrainingSpec, machine: Machine) -> bool:
    """Return True if the processes divide the base among them."""
    return spec.fsdp == "full_shard" and processes_of(spec, machine) > 1


def _alone(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine) -> Footprint:
    """Return the footprint of one process, whose micro-batch is that of the spec."""
    static = _static(shape, spec, machine, trained(shape, spec), evaluated=bool(lengths.validation))
    if takes_fast_path(shape, spec, machine):
        return _fast(shape, spec, lengths, machine, static)
    activations, head = _plain(shape, spec, lengths, machine)
    memory = replace(static, activations=activations, head=head)
    if machine.type == "cuda":
        memory = replace(memory, fixed=CUDA_CONTEXT, slack=round(memory.total * (1 / FILLED - 1)))
    else:
        heap = HEAP_AGAIN if spec.gradient_checkpointing else HEAP
        memory = replace(memory, fixed=CPU_PROCESS, slack=round(heap * (activations + head)))
    if is_sharded(spec, machine):
        loading = memory.weights + memory.trained + memory.fixed
        weights = memory.weights - _given_up(shape, spec, machine)
        memory = replace(memory, weights=weights)
        # The base is loaded as a whole, and divided then.
        memory = replace(memory, weights=weights + max(0, loading - memory.total))
    return Footprint(memory, None)


def _given_up(shape: Shape, spec: TrainingSpec, machine: Machine) -> int:
    """Return the bytes of the layers' weights that other processes keep, but for two layers that are gathered.

    Of weights in 4 bits the packed bytes are divided, not the constants of their blocks (`ranks/sharding.py`).
    """
    each = 0.5 if spec.method == "qlora" else machine.each
    kept = 1 / processes_of(spec, machine) + 2 / shape.layers
    return round(each * shape.linear_weights * max(0.0, 1 - kept))


def takes_fast_path(shape: Shape, spec: TrainingSpec, machine: Machine) -> bool:
    """Return True if the run goes through the fast path: `fast/reading.py`'s conditions, as far as settings tell."""
    wanted = spec.fast_path == "on" or (spec.fast_path == "auto" and machine.type == "cuda")
    knows = spec.method == "qlora" and spec.objective != "dpo" and not spec.use_dora and not spec.modules_to_save
    computes = spec.bnb_4bit_compute_dtype != "float16" and (machine.type == "cpu" or machine.each < _FLOAT)
    return wanted and knows and computes and not shape.slides and not is_sharded(spec, machine)


def exceeds_gpu(shape: Shape, spec: TrainingSpec, machine: Machine) -> bool:
    """Return True if the base does not fit on the GPU, and only the fast path can train it, layer by layer."""
    room = min(machine.memory, spec.vram_budget_gb * 1e9) if spec.vram_budget_gb else machine.memory
    alone = machine.type == "cuda" and not spec.search.trials and takes_fast_path(shape, spec, machine)
    return alone and _weights(shape, spec, machine) > room * MARGIN


def _static(shape: Shape, spec: TrainingSpec, machine: Machine, parts: Trained, *, evaluated: bool) -> Memory:
    """Return what does not depend on the rows' lengths."""
    count = parts.parameters
    full = spec.method == "full"
    copies = count * machine.each if machine.each < _FLOAT else 0
    if machine.type == "cpu" and evaluated:
        copies += _FLOAT * count  # the best evaluation's, which lies in RAM anyway
    return Memory(
        weights=_weights(shape, spec, machine),
        trained=0 if full else 4 * count,
        gradients=4 * count,
        optimizer=parts.state_bytes(spec.optim),
        copies=copies,
        activations=0,
        head=0,
        fixed=0,
        mapped=_mapped(shape, spec, machine),
    )


def _mapped(shape: Shape, spec: TrainingSpec, machine: Machine) -> int:
    """Return the bytes of weights that were read to be quantised, and stay in RSS on a CPU.

    safetensors maps the file, and what is not quantised (embedding, norms) stays a part of it, so that all pages that
    were read do: 46 of the 47 MB of the layers' weights in a base of 56 MB. The kernel may take them where it needs to.
    """
    return _STORED * shape.linear_weights if spec.method == "qlora" and machine.type == "cpu" else 0


def _weights(shape: Shape, spec: TrainingSpec, machine: Machine) -> int:
    if spec.method == "full":
        return 4 * shape.parameters
    if spec.method != "qlora":
        return machine.each * shape.parameters
    rest = shape.parameters - shape.linear_weights
    return nf4_bytes(shape.linear_weights, double=spec.bnb_4bit_use_double_quant) + machine.each * rest


def _plain(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine) -> tuple[int, int]:
    """Return activations and head of the highest moment: of a backward pass, or of an evaluation."""
    sides = 2 if spec.objective == "dpo" else 1
    longest = spec.max_length if spec.packing else longest_of(lengths.train)
    rows = spec.per_device_train_batch_size * sides
    tokens = rows * longest
    each = machine.each
    layer = layer_bytes(shape, spec, machine)
    inputs = shape.width * (4 if spec.method == "full" else each)
    # The MLP's backward pass: gradients of gate, up, their product and of one of its factors.
    working = 4 * shape.mlp * each
    one = max(linear.weights for linear in shape.linears)
    unpacked = one * each if spec.method == "qlora" else 0
    if spec.use_dora:
        unpacked += 8 * one  # the weight with its adapter's product, float32, to take norms of
    mask = rows * longest**2 * (1 + each) if rows > 1 and not spec.packing else 0
    if spec.gradient_checkpointing:
        kept, at_work = shape.layers * inputs * tokens, (layer + working) * tokens
    else:
        kept, at_work = shape.layers * layer * tokens, working * tokens
    training = (kept + at_work + unpacked + mask, kept + head_bytes(shape, spec, machine, tokens))
    evaluating = _evaluation(shape, spec, lengths, machine, sides)
    peak = max(*training, evaluating)
    activations = min(training[0], peak)
    return activations, peak - activations


def _evaluation(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine, sides: int) -> int:
    """Return what an evaluation keeps: one layer at work, and the head."""
    rows = min(spec.per_device_eval_batch_size, rows_of(lengths.validation))
    tokens = rows * sides * longest_of(lengths.validation)
    passing = machine.each * (4 * shape.mlp + 6 * shape.width + 2 * shape.qkv)
    return max(passing * tokens, head_bytes(shape, spec, machine, tokens, learns=False))


def layer_bytes(shape: Shape, spec: TrainingSpec, machine: Machine) -> int:
    """Return the bytes that autograd keeps of one token in one layer.

    RMSNorm keeps a float32 copy (4D), for trained norms its result too; attention queries, keys and values as many as
    there are heads, and what comes out; SwiGLU gate, its activation and up (3F). A frozen linear layer keeps nothing.
    An adapter keeps its input after dropout, and the mask: a byte on a GPU, float32 on a CPU. A trained linear layer
    keeps its input.
    """
    width, mlp, each = shape.width, shape.mlp, machine.each
    norms = 2 * 4 * width * (2 if spec.method == "full" else 1)
    if shape.head_norms:
        norms += 4 * (shape.heads + shape.keys) * shape.head_width
    attention = 4 * shape.queries * each
    inputs = 0
    if spec.method == "full":
        inputs = each * sum(linear.inputs for linear in shape.linears if linear.name != "down_proj")
    for linear in targets(shape, spec):
        mask = (1 if machine.type == "cuda" else 4) if spec.lora_dropout else 0
        inputs += linear.inputs * (each + mask) + each * spec.lora_r
        if spec.use_dora:
            inputs += 2 * each * linear.outputs  # both products, to tell the magnitude's gradient
    return norms + attention + 3 * mlp * each + inputs


def head_bytes(shape: Shape, spec: TrainingSpec, machine: Machine, tokens: int, *, learns: bool = True) -> int:
    """Return the bytes at work where logits are scored, tile by tile."""
    tile = min(tokens, _TILE_TOKENS) * min(shape.vocabulary, _TILE_WORDS)
    copies = machine.each + (0 if machine.type == "cuda" else 4 * _CPU_TILES)
    hidden = tokens * shape.width * (machine.each + 4)
    learned = 4 * shape.embedding if learns and spec.method == "full" else 0
    return tile * copies + hidden + learned


def _fast(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine, static: Memory) -> Footprint:
    """Return what the fast path would plan for itself, by its own arithmetic."""
    longest = longest_of(lengths.train)
    budget = machine.memory - CUDA_CONTEXT
    if spec.vram_budget_gb:
        budget = min(budget, round(spec.vram_budget_gb * 1e9))
    buffer = workspace_bytes(shape, spec, machine.each)
    beside = static.trained // _FLOAT * trained_bytes(spec.optim)
    room = room_for_passes(budget, static.weights + static.trained, beside, buffer)
    keep_all = not spec.gradient_checkpointing
    if machine.type == "cuda":
        most = max(longest, longest * spec.batch_rows)
        passes = plan_within(
            _sizes(shape, spec, machine), shape.layers, room, longest, most, keep_all=keep_all,
            movable=_movable(shape, spec, machine), places=[Away.NOTHING] if spec.search.trials else list(Away),
        )  # fmt: skip
    else:
        passes = Plan(max(longest, _CPU_TOKENS), (Keep.ALL if keep_all else Keep.INPUT,) * shape.layers)
    host = 0
    if machine.type == "cuda":
        brought = exceeds_gpu(shape, spec, machine)
        host = host_bytes(shape, spec, machine, passes if not brought else replace(passes, away=Away.LAYERS))
    return Footprint(passes_of(shape, spec, lengths, machine, passes), passes, host=host)


def host_bytes(shape: Shape, spec: TrainingSpec, machine: Machine, passes: Plan) -> int:
    """Return the bytes of RAM of what a plan sends there: embedding, layers' weights, layers' inputs; else 0.

    Layers' weights, and inputs of layers, lie in pinned buffers, one each, that PyTorch rounds up to powers of two.
    """
    inputs = sum(keep is Keep.HOST for keep in passes.keeps)
    found = inputs * _power_of_two(passes.tokens * shape.width * machine.each)
    if passes.away is not Away.NOTHING and not shape.tied:
        found += machine.each * shape.embedding
    if passes.away is Away.LAYERS:
        movable = _movable(shape, spec, machine).layers
        found += shape.layers * _power_of_two(movable // shape.layers)
    return found


def _power_of_two(count: int) -> int:
    return 1 << math.ceil(math.log2(max(1, count)))


def passes_of(shape: Shape, spec: TrainingSpec, lengths: Lengths, machine: Machine, passes: Plan) -> Memory:
    """Return the memory of a run on the fast path in such passes; its evaluations take the plain one."""
    static = _static(shape, spec, machine, trained(shape, spec), evaluated=bool(lengths.validation))
    training = _sizes(shape, spec, machine).of_pass(passes.tokens, passes.keeps)
    training += workspace_bytes(shape, spec, machine.each)
    away = _movable(shape, spec, machine).saved(passes.away, shape.layers)
    fewer_logits = 0 if passes.away is Away.NOTHING else round(FEWER_LOGITS)
    return replace(
        static,
        weights=static.weights - (away - fewer_logits if away else 0),
        optimizer=max(static.optimizer, static.trained // _FLOAT * (trained_bytes(spec.optim) - _FLOAT - 2)),
        activations=max(training, _evaluation(shape, spec, lengths, machine, 1)),
        head=round(FIXED) - fewer_logits,
        fixed=CUDA_CONTEXT if machine.type == "cuda" else CPU_PROCESS,
    )


def _movable(shape: Shape, spec: TrainingSpec, machine: Machine) -> Movable:
    layers = nf4_bytes(shape.linear_weights, double=spec.bnb_4bit_use_double_quant)
    embedding = machine.each * shape.embedding
    return Movable(0 if shape.tied else embedding, layers, max(0, embedding - 2 * HEAD_TILE))


def _sizes(shape: Shape, spec: TrainingSpec, machine: Machine) -> Sizes:
    return Sizes.of_layer(
        width=shape.width, mlp=shape.mlp, qkv=shape.qkv, attended=shape.queries, heads=shape.heads,
        ranks=spec.lora_r * len(targets(shape, spec)), each=machine.each,
    )  # fmt: skip


def workspace_bytes(shape: Shape, spec: TrainingSpec, each: int) -> int:
    """Return the bytes of the buffer that the fast path unpacks weights into: as much as its widest group needs."""
    adapted = {linear.name for linear in targets(shape, spec)}
    linears = {linear.name: linear for linear in shape.linears}
    sizes = []
    for names in GROUPS:
        group = [linears[name] for name in names]
        ranks = sum(spec.lora_r for name in names if name in adapted)
        columns = columns_beside(ranks, biased=any(linear.bias for linear in group))
        sizes.append(sum(linear.outputs for linear in group) * (group[0].inputs + columns))
    return max(sizes) * each
