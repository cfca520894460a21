"""Float32 masters of weights that are stored in less, so that steps below their rounding add up instead of being lost.

A bfloat16 number holds 8 bits, so a weight of 0.03 moves by 0.0001 or not at all: at a learning rate of 1e-6 nearly no
step is large enough. The optimizer therefore works on a float32 copy of each such weight, its master, and after each
step the weight becomes its master rounded (Micikevicius et al., "Mixed precision training", arXiv:1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

#: Where a weight's master stands in the optimizer's state of that weight, and so in checkpoints.
MASTER = "master"


def is_rounded(weight: Tensor) -> bool:
    """Whether a weight is stored in less than float32, as bfloat16 and float16 are."""
    return weight.is_floating_point() and weight.element_size() < 4


class MasterWeights:
    """Lets an optimizer of any class work on float32 masters of the weights it was given.

    Outside of its step the optimizer has the weights themselves: gradient clipping, gradient scaling and what maps
    parameters to names (FSDP2's checkpoints) see nothing else. Inside, once the gradients are there, its groups and its
    state hold the masters, with the gradients in float32; so its own averages are float32 too. A master is kept in the
    optimizer's state of its weight, so it is saved, loaded and moved with that.

    A weight that someone else has changed since is taken over into its master. Weights in float32 stay as they are.

    Args:
        optimizer: Has just been built.
        before: The masters of an optimizer before it, to go on with: they are the weights, and only averages begin
            anew. Other weights get their masters in the first step with a gradient.
    """

    def __init__(self, optimizer: Optimizer, before: MasterWeights | None = None) -> None:
        self.optimizer = optimizer
        #: What stands in the groups now, to the weight that belongs there.
        self._places: dict[Tensor, Tensor] = {}
        self._loaded: dict[Tensor, Tensor] = {}
        known = {} if before is None else before.known
        for weight in self._rounded():
            if weight in known:
                optimizer.state[weight][MASTER] = known[weight]
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(lambda *_: self._leave())
        optimizer.register_load_state_dict_pre_hook(self._before_loading)
        optimizer.register_load_state_dict_post_hook(self._after_loading)

    @property
    def known(self) -> dict[Tensor, Tensor]:
        """Weight to master, of all that have one by now."""
        return {
            weight: state[MASTER]
            for weight, state in self.optimizer.state.items()
            if isinstance(state, Mapping) and MASTER in state
        }

    def of(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The masters of some weights; the weights themselves where they have none."""
        known = self.known
        return [known.get(weight, weight) for weight in weights]

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Masters take the weights' places when the closure has made the gradients, each time that it is called."""
        given: Callable[[], Any] | None = args[1] if len(args) > 1 else kwargs.get("closure")
        if given is None:
            self._enter()
            return None

        def closure() -> Any:
            self._leave()
            loss = given()
            self._enter()
            return loss

        return ((args[0], closure, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": closure})

    @torch.no_grad()
    def _enter(self) -> None:
        if self._places:  # a class whose step calls that of its base comes here twice
            return
        places = {}
        for weight in self._rounded():
            if weight.grad is not None:
                state = self.optimizer.state.get(weight, {})
                # Optimizers take a state with anything in it for one that they have begun.
                master = nn.Parameter(_following(weight, state.pop(MASTER, None)))
                master.grad, weight.grad = weight.grad.float(), None
                places[weight] = master
        self._swap(places)

    @torch.no_grad()
    def _leave(self) -> None:
        for master, weight in self._swap_back().items():
            weight.copy_(master)
            self.optimizer.state[weight][MASTER] = master.detach()

    def _before_loading(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """What is loaded is cast to its parameter's dtype, so that is float32 meanwhile; masters are put back after."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        state = {name: dict(values) for name, values in state_dict["state"].items()}
        self._loaded = {
            weight: state[name].pop(MASTER)
            for weight, name in zip(weights, names, strict=False)  # torch says what is wrong with other groups
            if MASTER in state.get(name, {})
        }
        self._swap({w: nn.Parameter(torch.empty((), device=w.device)) for w in self._rounded()})
        return {**state_dict, "state": {name: values for name, values in state.items() if values}}

    def _after_loading(self, optimizer: Optimizer) -> None:
        self._swap_back()
        for weight, master in self._loaded.items():
            optimizer.state[weight][MASTER] = master.to(weight.device)
        self._loaded = {}

    def _rounded(self) -> list[Tensor]:
        return [w for group in self.optimizer.param_groups for w in group["params"] if is_rounded(w)]

    def _swap(self, places: Mapping[Tensor, Tensor]) -> None:
        """Put other tensors in the places of some, in groups and state, which keep their order."""
        for group in self.optimizer.param_groups:
            group["params"][:] = [places.get(p, p) for p in group["params"]]
        state = [(places.get(key, key), value) for key, value in self.optimizer.state.items()]
        self.optimizer.state.clear()
        self.optimizer.state.update(state)
        self._places = {other: one for one, other in places.items()}

    def _swap_back(self) -> dict[Tensor, Tensor]:
        places = self._places
        if places:
            self._swap(places)
        self._places = {}
        return places


def _following(weight: Tensor, master: Tensor | None) -> Tensor:
    """The master of a weight; where it no longer rounds to the weight, the weight was changed and counts."""
    if master is None:
        return weight.detach().float()
    master = master.to(weight.device)
    return torch.where(master.to(weight.dtype) == weight, master, weight.detach().float())


def trained(policy: nn.Module) -> list[nn.Parameter]:
    """The parameters that take gradients."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def exact_values(policy: nn.Module, masters: MasterWeights | None) -> list[Tensor]:
    """The parameters that take gradients, masters in the place of those that have one."""
    weights: list[Tensor] = list(trained(policy))
    return weights if masters is None else masters.of(weights)


@torch.no_grad()
def set_values(policy: nn.Module, masters: MasterWeights | None, values: Sequence[Tensor]) -> None:
    """Give the parameters that take gradients other values: in full to masters, and rounded to their weights.

    Args:
        policy: The model in training.
        masters: Those of its optimizer.
        values: One for each parameter, in float32 or in its dtype, in the order of :func:`exact_values`.
    """
    for weight, exact, value in zip(trained(policy), exact_values(policy, masters), values, strict=True):
        exact.copy_(value)
        if exact is not weight:
            weight.copy_(exact)


def what_moves(policy: nn.Module, masters: MasterWeights | None) -> dict[str, Sequence[Tensor]]:
    """What a step changes, by the name under which its share is logged: the weights, and masters if there are any."""
    found: dict[str, Sequence[Tensor]] = {"train/moved_share": trained(policy)}
    return found if masters is None else {**found, "train/moved_share_masters": exact_values(policy, masters)}


def say_what_is_rounded(policy: nn.Module, masters: bool) -> None:
    """Tell before the first step what becomes of small steps where trained weights are not float32."""
    for dtype in sorted({p.dtype for p in trained(policy) if is_rounded(p)}, key=str):
        name = str(dtype).removeprefix("torch.")
        below = f"steps below {name}'s rounding (up to {torch.finfo(dtype).eps / 2:.1g} of a weight)"
        if masters:
            rank_zero_info(
                f"weights in {name}: the optimizer moves float32 masters, in which {below} add up; a weight changes"
                f" when its master is nearer to another {name} number"
            )
        else:
            rank_zero_warn(
                f"weights in {name} without float32 masters (model.float32_masters): {below} are lost;"
                " train/moved_share is the share of entries that a step changes"
            )
