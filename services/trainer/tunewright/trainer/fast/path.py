"""One optimizer step's documents on the fast path: passes without padding, forward, backward, gradients added.

A step's tokens are split into passes by whole documents, as a budget of tokens allows; the sum of the passes is the
step, whatever the split. Knows the adapters only through the layers, and no optimizer.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tunewright.trainer.fast.arithmetic import IGNORED
from tunewright.trainer.fast.attention import Documents
from tunewright.trainer.fast.dropout import LEVELS, Dropout, key_of, numbers
from tunewright.trainer.fast.head import HostHead
from tunewright.trainer.fast.layer import Kept, Pass
from tunewright.trainer.fast.linear import LinearGroup
from tunewright.trainer.fast.loss import Losses, loss_and_gradient, loss_and_gradient_by_tiles
from tunewright.trainer.fast.offload import HostInputs
from tunewright.trainer.fast.passes import Keep, Plan
from tunewright.trainer.fast.reading import Decoder


@dataclass(frozen=True, slots=True)
class Document:
    """One row's tokens, and what shall follow each: IGNORED where the loss does not count."""

    ids: torch.Tensor
    following: torch.Tensor
    first: int
    """Number of its first token within the step."""

    def __len__(self) -> int:
        return len(self.ids)


class FastPath:
    """Goes through steps of one run.

    Args:
        decoder: the model.
        plan: passes, and what is kept.
        dropout: share of the adapters' inputs that is dropped.
        seed: of the masks.
        planned_gb: GB (10^9 bytes) of the GPU that the plan was made for, weights included; 0 on a CPU.
    """

    def __init__(self, decoder: Decoder, plan: Plan, *, dropout: float, seed: int, planned_gb: float = 0.0) -> None:
        self.decoder = decoder
        self.plan = plan
        self.planned_gb = planned_gb
        self._inputs = HostInputs(decoder.workspace.device)
        self._threshold = round(dropout * LEVELS)
        self._seed = seed

    @torch.no_grad()
    def step(self, inputs: Mapping[str, Any], counted: float, number: int) -> Losses:
        """Add the gradients of a batch's mean loss over `counted` tokens; `number` is the optimizer step's."""
        # Rows are cut and packed on the CPU: to ask a GPU where they end would mean to wait for it each time.
        inputs = {name: value.cpu() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        for layer in self.decoder.layers:
            for group in layer.groups:
                group.refresh()
        losses = [
            self._pass(documents, 1 / counted, number) for documents in packed(documents_of(inputs), self.plan.tokens)
        ]
        nats, right = (torch.stack([getattr(each, name) for each in losses]).sum() for name in ("nats", "right"))
        return Losses(nats, right, sum(each.counted for each in losses))

    def _pass(self, documents: Sequence[Document], scale: float, number: int) -> Losses:
        decoder = self.decoder
        device = decoder.workspace.device
        given = self._given(documents, number)
        ids = torch.cat([document.ids for document in documents]).to(decoder.embedding.device)
        following = torch.cat([document.following for document in documents])
        # Found on the CPU: to ask a GPU where the tokens lie would mean to wait for it.
        places = (following != IGNORED).nonzero()[:, 0]
        wanted, places = following[places].to(device), places.to(device)
        kept: list[Kept] = []
        x = decoder.embedding.index_select(0, ids).to(device, decoder.workspace.dtype)
        delta = None
        for at, (layer, keep) in enumerate(zip(decoder.layers, self.plan.keeps, strict=True)):
            with self._there(at, at + 1):
                x, delta, saved = layer.forward(x, delta, given, keep)
            if keep is Keep.HOST:
                saved.x = self._inputs.put(at, saved.x)
            kept.append(saved)
        grad, losses = self._top(x, delta, wanted, places, scale)
        del x, delta, saved
        for at, layer in reversed(list(enumerate(decoder.layers))):
            saved = kept.pop()
            if self.plan.keeps[at] is Keep.HOST:
                saved.x = self._inputs.take(at, device)
            if at and self.plan.keeps[at - 1] is Keep.HOST:
                self._inputs.send_for(at - 1, device)
            with self._there(at, at - 1):
                layer.backward(saved, grad, given)
            del saved
        return losses

    @contextmanager
    def _there(self, number: int, then: int) -> Iterator[None]:
        """Have a layer's weights on the device while it computes, and send for those of layer `then`."""
        stream = self.decoder.stream
        if stream is None:
            yield
            return
        stream.begin(number, then if 0 <= then < len(self.decoder.layers) else None)
        yield
        stream.end(number)

    def _top(
        self, x: torch.Tensor, delta: torch.Tensor | None, wanted: torch.Tensor, places: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, Losses]:
        """Return the gradient of the last layer's output, and the losses."""
        decoder = self.decoder
        hidden = torch.empty_like(x)
        total, factors = decoder.arithmetic.add_norm(x, delta, decoder.norm.weight, decoder.norm.eps, hidden)
        given = (wanted, places, scale, decoder.arithmetic)
        if isinstance(decoder.head, HostHead):
            losses, back = loss_and_gradient_by_tiles(hidden, decoder.head, *given)
        else:
            losses, back = loss_and_gradient(hidden, decoder.head, *given, self.plan.logits)
        grad = hidden.zero_()
        decoder.arithmetic.norm_backward(back, total, decoder.norm.weight, factors, grad)
        return grad, losses

    def _given(self, documents: Sequence[Document], number: int) -> Pass:
        device = self.decoder.workspace.device
        lengths = [len(document) for document in documents]
        positions = torch.cat([torch.arange(length) for length in lengths])
        firsts = torch.tensor([document.first for document in documents]).repeat_interleave(torch.tensor(lengths))
        rows = numbers(positions + firsts, key_of(self._seed, number)).to(device)
        # A float32 input: the module would round the angles to the type of what it is given.
        cos, sin = self.decoder.rotary(torch.empty(0, device=device), positions[None].to(device))
        dropout = partial(self._dropout, rows)
        turn = sin[0].contiguous()
        return Pass(Documents.of(lengths, device), cos[0].contiguous(), turn, -turn, dropout)

    def _dropout(self, rows: torch.Tensor, group: LinearGroup) -> Dropout | None:
        if not self._threshold or not sum(group.ranks):
            return None
        keys = tuple(key_of(self._seed, group.number, part) for part in range(len(group.frozen)))
        return Dropout(keys, self._threshold, rows, remember=not rows.is_cuda)


def documents_of(inputs: Mapping[str, Any]) -> list[Document]:
    """Return the documents of a batch: rows without their padding, or pieces of a packed row.

    Positions that start again mark the pieces.
    """
    ids, labels = inputs["input_ids"], inputs["labels"]
    mask = inputs.get("attention_mask")
    if mask is not None:
        rows = [(ids[row, :length], labels[row, :length]) for row, length in enumerate(mask.sum(dim=1).tolist())]
    else:
        begins = (inputs["position_ids"][0] == 0).nonzero()[:, 0].tolist()
        ends = [*begins[1:], ids.shape[1]]
        rows = [(ids[0, begin:end], labels[0, begin:end]) for begin, end in zip(begins, ends, strict=True)]
    documents, first = [], 0
    for row, wanted in rows:
        following = torch.full_like(wanted, IGNORED)
        following[:-1] = wanted[1:]
        documents.append(Document(row, following, first))
        first += len(row)
    return documents


def packed(documents: Sequence[Document], tokens: int) -> list[list[Document]]:
    """Return passes of up to `tokens` tokens: each document, longest first, into the first pass that has room."""
    passes: list[list[Document]] = []
    room: list[int] = []
    for document in sorted(documents, key=len, reverse=True):
        at = next((at for at, left in enumerate(room) if left >= len(document)), None)
        if at is None:
            passes.append([])
            room.append(tokens)
            at = len(room) - 1
        passes[at].append(document)
        room[at] -= len(document)
    return passes
