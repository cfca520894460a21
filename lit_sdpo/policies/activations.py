"""What a forward and backward pass over some rows needs at each of its moments, watched on tensors without storage.

Every tensor of a pass is a multiple of its prompts, a multiple of its rows, or neither, and a pass over more of them
makes the same tensors in the same order. So three small passes say of each moment how much it needs for any number.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from lit_sdpo.functional.logprobs import product_dtype
from lit_sdpo.policies.attention import attending
from lit_sdpo.policies.packing import MASK_ELEMENTS, Packing, Sequences
from lit_sdpo.policies.scoring import base_model, decoder, head
from lit_sdpo.policies.sharding import undisturbed


@dataclass(frozen=True)
class Shape:
    """Lengths of the rows of a pass, all at their longest.

    Attributes:
        prompt: Tokens of a prompt.
        completion: Tokens of a completion.
        context: Tokens of a teacher's prompt; 0 where nothing is scored beside the policy.
    """

    prompt: int
    completion: int
    context: int = 0


@dataclass(frozen=True)
class Moment:
    """Bytes that live at a moment of a pass: ``fixed + prompts · per_prompt + rows · per_row``.

    Attributes:
        fixed: Gradients of weights, and copies of weights in another dtype.
        per_prompt: Per prompt.
        per_row: Per completion.
        at_loss: Whether logits are made at this moment, which are not among these.
    """

    fixed: float
    per_prompt: float
    per_row: float
    at_loss: bool

    def tokens(self, prompts: int, rows: int) -> int:
        """What prompts and rows need."""
        return round(prompts * self.per_prompt + rows * self.per_row)


def moments(
    policy: PreTrainedModel,
    shape: Shape,
    autocast: torch.dtype | None = None,
    accumulated: bool = False,
    on_cpu: bool = True,
) -> list[Moment]:
    """What a pass needs at each moment that can be its peak.

    Args:
        policy: The model in training; its weights are not touched.
        shape: Lengths of the rows.
        autocast: Dtype of a mixed precision.
        accumulated: There are gradients of earlier passes, which do not count here, so none stay.
        on_cpu: Whether it runs on a CPU, which makes a mask of each row and casts what it adds.
    """
    two, more_rows, more_prompts = (
        _watched(policy, shape, prompts, rows, autocast, accumulated, on_cpu)
        for prompts, rows in ((2, 2), (2, 4), (3, 3))
    )
    found = []
    for number, (small, wide, long) in enumerate(zip(two.live, more_rows.live, more_prompts.live, strict=True)):
        per_row = (wide - small) / 2
        per_prompt = long - small - per_row
        found.append(Moment(small - 2 * per_prompt - 2 * per_row, per_prompt, per_row, number == two.loss))
    return _peaks(found)


def _peaks(found: list[Moment]) -> list[Moment]:
    """Without the moments that need no more than another in any respect."""
    kept: list[Moment] = []
    for one in sorted(found, key=lambda m: (m.per_row, m.per_prompt, m.fixed), reverse=True):
        if one.at_loss or not any(one.fixed <= other.fixed and one.per_prompt <= other.per_prompt for other in kept):
            kept.append(one)
    return kept


def _watched(
    policy: PreTrainedModel,
    shape: Shape,
    prompts: int,
    rows: int,
    autocast: torch.dtype | None,
    accumulated: bool,
    on_cpu: bool,
) -> Watch:
    part, model = decoder(policy), base_model(policy)
    masked = on_cpu or shape.completion * (shape.prompt + shape.completion) <= MASK_ELEMENTS
    lengths = [length for length in (shape.prompt, shape.context) if length]
    layouts = [_layout(prompts, rows, length, shape.completion, masked) for length in lengths]
    matrix: Any = head(policy).weight
    with FakeTensorMode(allow_non_fake_inputs=True):
        known: dict[int, Tensor] = {}

        def fake(tensor: Tensor) -> Tensor:
            # Of divided weights the whole size, as a plain tensor.
            if id(tensor) not in known:
                made = torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(tensor.requires_grad)
                if accumulated and tensor.requires_grad:
                    made.grad = torch.empty_like(made)
                known[id(tensor)] = made
            return known[id(tensor)]

        state = {f"part.{name}": fake(tensor) for name, tensor in (*part.named_parameters(), *part.named_buffers())}
        weight = fake(matrix)
        watch = Watch([*known.values(), *(own.grad for own in known.values() if own.grad is not None)])

        def forward(layout: Packing) -> Tensor:
            with attending(model, layout):
                out = part(input_ids=layout.ids[None], position_ids=layout.positions[None], use_cache=False)
            hidden: Tensor = out.last_hidden_state
            return hidden[0].index_select(0, layout.places)

        def run() -> None:
            with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
                hidden = forward(layouts[0])
                with torch.no_grad():
                    scored = [forward(layout) for layout in layouts[1:]]
                apply: Callable[..., Tensor] = _Loss.apply
                loss = apply(hidden, weight, watch, on_cpu)
            del hidden, scored
            loss.backward()

        with torch.enable_grad(), undisturbed(policy), torch.compiler.set_stance("force_eager"), watch:
            torch.func.functional_call(_Pass(part, run), state, ())
    return watch


class _Pass(nn.Module):
    """Forward and backward pass in one, as layers that are recomputed read their weights again."""

    def __init__(self, part: nn.Module, run: Callable[[], None]) -> None:
        super().__init__()
        self.part, self.run = part, run

    def forward(self) -> None:
        self.run()


def _layout(prompts: int, rows: int, prompt: int, completion: int, masked: bool) -> Packing:
    """All rows in one block, or their number would decide what is made; prompts that differ in length need a mask."""
    shorter = int(masked and prompt > 1)
    ids = [[number] * (prompt - shorter * (number == 0)) for number in range(prompts)]
    drawn = torch.zeros(rows, completion, dtype=torch.long)
    owners = [ids[row % prompts] for row in range(rows)]
    return Packing(Sequences(owners, drawn, torch.ones_like(drawn, dtype=torch.bool)), math.inf)


class Watch(TorchDispatchMode):
    """Adds up what lives, each time that there is more."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.live: list[int] = []
        self.loss = -1
        self._now = 0
        self._known: dict[int, Any] = {}
        for tensor in given:
            self._known[tensor.untyped_storage()._cdata] = None
        self._given = list(given)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked more often than all else, and nothing is made
            return args[0].fake_device
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()

        def gone() -> None:
            self._now -= size
            del self._known[key]

        self._known[key] = weakref.finalize(storage, gone)
        self._now += size
        self.live.append(self._now)


class _Loss(torch.autograd.Function):
    """Makes the gradients that :func:`lit_sdpo.functional.chunked_loss` makes, without logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, watch: Watch, on_cpu: bool) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        out = hidden.new_zeros((), dtype=torch.float32)
        watch.loss = len(watch.live) - 1
        if grad_weight is not None and (dtype := product_dtype(hidden)) != torch.float32:
            share = torch.zeros_like(weight, dtype=dtype)  # of a chunk
            if on_cpu:  # there a sum of two dtypes has a copy in the larger
                share.float()
        ctx.made = grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        made, ctx.made = ctx.made, None
        return *made, None, None
