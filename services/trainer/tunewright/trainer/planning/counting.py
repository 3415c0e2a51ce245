"""How many parameters a method trains, exactly, and how many bytes optimizer and quantisation make of them.

Knows no activations and no machine.
"""

from dataclasses import dataclass

from tunewright.chassis.errors import InvalidSpec, Violation
from tunewright.trainer.planning.shapes import Linear, Shape
from tunewright.trainer.spec import ALL_LINEAR, TrainingSpec

_BLOCK = 64
"""Weights that share a constant in NF4 (bitsandbytes)."""
_OUTER_BLOCK = 256
"""Constants that share one of their own under double quantisation; each then takes a byte (QLoRA, section 3)."""
_STATE_BLOCK = 256
"""Values that share a constant in bitsandbytes' 8-bit optimizer state."""
_SMALL_TENSOR = 4096
"""Tensors below this keep their optimizer state in float32 (bitsandbytes' `min_8bit_size`)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What is trained: tensors by their sizes."""

    tensors: tuple[tuple[int, int], ...]
    """Parameters of a tensor, and how many such tensors there are."""
    embedding: int = 0
    """Of them in embeddings, whose optimizer state transformers keeps in 32 bits."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return sum(size * count for size, count in self.tensors)

    def state_bytes(self, optim: str) -> int:
        """Return the bytes of AdamW's two moments."""
        if optim == "adamw_torch":
            return 8 * self.parameters
        constants = 2 * 4 / _STATE_BLOCK
        total = 0.0
        for size, count in self.tensors:
            each = 8.0 if size < _SMALL_TENSOR else 2 + constants
            total += each * size * count
        return round(total + self.embedding * (6 - constants))


def targets(shape: Shape, spec: TrainingSpec) -> tuple[Linear, ...]:
    """Return the linear layers of a decoder layer that get adapters.

    Raises:
        InvalidSpec: the base has no layer of that name.
    """
    if not spec.has_adapters:
        return ()
    if spec.target_modules == (ALL_LINEAR,):
        return shape.linears
    known = {linear.name: linear for linear in shape.linears}
    for name in spec.target_modules:
        if name not in known:
            why = f"no linear layer is called {name!r}; this base has {', '.join(known)}"
            raise InvalidSpec(f"target_modules: {why}", violations=[Violation("training.target_modules", why)])
    return tuple(linear for linear in shape.linears if linear.name in spec.target_modules)


def trained(shape: Shape, spec: TrainingSpec) -> Trained:
    """Return what the method trains.

    Raises:
        InvalidSpec: a module that the base does not have.
    """
    if spec.method == "full":
        return _everything(shape)
    if spec.method == "prompt_tuning":
        return Trained(((spec.num_virtual_tokens * shape.width, 1),))
    rank, layers = spec.lora_r, shape.layers
    tensors = []
    for linear in targets(shape, spec):
        tensors += [(rank * linear.inputs, layers), (rank * linear.outputs, layers)]
        if spec.use_dora:
            tensors.append((linear.outputs, layers))
    return Trained((*tensors, *_whole(shape, spec)), shape.embedding * ("embed_tokens" in spec.modules_to_save))


def nf4_bytes(weights: int, *, double: bool) -> int:
    """Return the bytes of so many weights in NF4, constants included."""
    constants = (1 + 4 / _OUTER_BLOCK) if double else 4.0
    return round(weights * (0.5 + constants / _BLOCK))


def _everything(shape: Shape) -> Trained:
    tensors = [(linear.weights, shape.layers) for linear in shape.linears]
    tensors += [(linear.outputs, shape.layers) for linear in shape.linears if linear.bias]
    tensors += [(shape.width, 2 * shape.layers + 1), (shape.embedding, 1 if shape.tied else 2)]
    if shape.head_norms:
        tensors.append((shape.head_width, 2 * shape.layers))
    return Trained(tuple(tensors), shape.embedding)


def _whole(shape: Shape, spec: TrainingSpec) -> list[tuple[int, int]]:
    """Return the tensors of modules that are trained as a whole beside the adapters."""
    layers = shape.layers
    known: dict[str, list[tuple[int, int]]] = {
        "embed_tokens": [(shape.embedding, 1)],
        "lm_head": [(shape.embedding, 1)],
        "norm": [(shape.width, 1)],
        "input_layernorm": [(shape.width, layers)],
        "post_attention_layernorm": [(shape.width, layers)],
    }
    if shape.head_norms:
        known |= {name: [(shape.head_width, layers)] for name in ("q_norm", "k_norm")}
    for linear in shape.linears:
        known[linear.name] = [(linear.weights, layers), *([(linear.outputs, layers)] if linear.bias else [])]
    for name in spec.modules_to_save:
        if name not in known:
            why = f"no module is called {name!r}; this base has {', '.join(known)}"
            raise InvalidSpec(f"modules_to_save: {why}", violations=[Violation("training.modules_to_save", why)])
    # PEFT takes every module whose name ends so: `norm` means input_layernorm too.
    meant = [name for name in known if name.endswith(spec.modules_to_save)]
    return [tensor for name in meant for tensor in known[name]]
