"""Training some of the parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from lit_sdpo.errors import UserError

WHERE = "model.train_only"


class TrainOnly:
    """Which parameters train, by patterns of their names; all others are frozen.

    The choices of arXiv:2510.08564 against forgetting are the attention projections alone, and gate and up projection
    with a frozen down projection. Frozen parameters have no gradient, and the optimizer has no state for them.

    Args:
        patterns: Regular expressions, looked for anywhere in a parameter's name, such as ``self_attn`` or
            ``gate_proj|up_proj``. Of tied weights every name counts. With adapters they choose among these.

    Raises:
        UserError: There is none, one is no regular expression, or (when the policy is loaded) one matches nothing that
            trains.

    Example:
        >>> model = nn.ModuleDict({"q_proj": nn.Linear(2, 2), "down_proj": nn.Linear(2, 2)})
        >>> TrainOnly(["q_proj"]).apply(model)
        >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        ['q_proj.weight', 'q_proj.bias']
    """

    def __init__(self, patterns: list[str]) -> None:
        if not patterns:
            raise UserError("there is no pattern, so nothing would train", where=WHERE, fix="give one, or leave it out")
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                what = f"{pattern!r} is no regular expression ({error})"
                raise UserError(what, where=f"{WHERE}.patterns", fix="such as 'self_attn'") from error
        self.patterns = patterns

    def apply(self, policy: nn.Module) -> None:
        """Freeze what no pattern matches.

        Raises:
            UserError: A pattern matches nothing that trains.
        """
        names = [name for name, p in policy.named_parameters(remove_duplicate=False) if p.requires_grad]
        for pattern in self.patterns:
            if not any(re.search(pattern, name) for name in names):
                raise UserError(
                    f"{pattern!r} matches none of the parameters that train",
                    where=f"{WHERE}.patterns",
                    fix=f"match some of {_examples(names)}",
                )
        chosen = {name for name in names if any(re.search(pattern, name) for pattern in self.patterns)}
        named = list(policy.named_parameters(remove_duplicate=False))
        kept = {id(parameter) for name, parameter in named if name in chosen}
        for _, parameter in named:
            parameter.requires_grad_(id(parameter) in kept)


def _examples(names: Sequence[str]) -> str:
    """Names of one block and of what stands outside the blocks."""
    kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".<n>.", name) for name in names)
    return ", ".join(list(kinds)[:12]) or "those that the adapters leave"
