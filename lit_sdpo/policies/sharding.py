"""Policies whose weights are divided among processes (FSDP2), and the moments at which they are whole.

Each layer of the decoder is one piece, what lies outside the layers (embeddings, last norm, head) another. A layer is
gathered for its own forward and backward pass. What lies outside stays gathered from the forward pass until the
backward pass has ended, or until :func:`release`, because the head is used after the model's own forward.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Partial, distribute_tensor

T = TypeVar("T")

_held: WeakSet[Any] = WeakSet()
_used: WeakSet[Any] = WeakSet()


def base_model(policy: Any) -> Any:
    """The Transformers model inside PEFT's wrapper, adapters included, or the policy itself."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


def shard(policy: Any, mesh: DeviceMesh) -> None:
    """Divide a causal language model's weights among the processes of a mesh, in place; gradients add up in float32.

    Args:
        policy: A Transformers model, bare or wrapped by PEFT; its parameters keep their names.
        mesh: Of one dimension.
    """
    root = base_model(policy)
    options: dict[str, Any] = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32)}
    for layer in layers_of(root):
        fully_shard(layer, reshard_after_forward=True, **options)
    fully_shard(root, reshard_after_forward=False, **options)
    root.run = _run  # registered as a forward pass, it gathers what lies outside the layers
    register_fsdp_forward_method(root, "run")


def is_sharded(policy: Any) -> bool:
    """Whether every forward pass of this model is a matter of all processes."""
    return isinstance(base_model(policy), FSDPModule)


@contextmanager
def undisturbed(policy: Any) -> Iterator[None]:
    """Let a sharded model run on other tensors than its weights inside: nothing is gathered."""
    parts: list[Any] = _parts(base_model(policy))
    before = [(part, part._forward_pre_hooks, part._forward_hooks) for part in parts]
    try:
        for part in parts:
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for part, *hooks in before:
            part._forward_pre_hooks, part._forward_hooks = hooks


def as_forward(policy: Any, function: Callable[[], T]) -> T:
    """What ``function`` gives, called as if it were the forward pass of the whole model.

    A sharded model gathers what lies outside its layers in its own forward only; this serves calls that go around it.
    """
    root = base_model(policy)
    if not isinstance(root, FSDPModule):
        return function()
    _used.add(root)
    return root.run(function)  # type: ignore[no-any-return, attr-defined]


def release(policy: Any) -> None:
    """Give up whatever a sharded model has gathered, after which it has its own parameters again.

    Never between a forward pass and its backward pass. Does nothing to a model that is held or not sharded.
    """
    root = base_model(policy)
    if isinstance(root, FSDPModule) and root not in _held:
        for part in _parts(root):
            part.reshard()
        if root in _used and hasattr(root, "reset_iter_state"):  # torch 2.13
            root.reset_iter_state()  # or forward passes that no backward pass follows are remembered for ever
        _used.discard(root)


@contextmanager
def gathered(policy: Any) -> Iterator[None]:
    """Hold all weights of a sharded model whole inside, so that its forward passes need no other process.

    All processes enter at the same time; within they may run as many forward passes as they like. Inside another such
    context this one does nothing.
    """
    root = base_model(policy)
    if not isinstance(root, FSDPModule) or root in _held:
        yield
        return
    as_forward(policy, lambda: None)  # the first forward pass of all has to be the root's
    root.set_reshard_after_forward(False)
    for part in _parts(root):
        part.unshard()
    _held.add(root)
    try:
        yield
    finally:
        _held.discard(root)
        root.set_reshard_after_forward(True)
        root.set_reshard_after_forward(False, recurse=False)
        release(policy)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this process may hold a part only; all processes call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on all processes, divided as ``like`` is; nothing is communicated."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def add_up(scalars: Sequence[Tensor]) -> Tensor:
    """The sum of some scalars, where each may be a sum over the parts of a divided tensor; one message for all."""
    if not isinstance(scalars[0], DTensor):
        return torch.stack(list(scalars)).sum()
    local = torch.stack([scalar.to_local() for scalar in scalars]).sum()  # type: ignore[attr-defined]
    return DTensor.from_local(local, scalars[0].device_mesh, [Partial()]).full_tensor()


def _run(function: Callable[[], Any]) -> Any:
    return function()


def _parts(root: Any) -> list[FSDPModule]:
    return [module for module in root.modules() if isinstance(module, FSDPModule)]


def layers_of(root: Any) -> list[nn.Module]:
    """The decoder layers of a causal language model; none where they cannot be told."""
    count = root.config.get_text_config().num_hidden_layers
    for module in root.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []
