"""What a model does at random in training mode, switched off.

Completions are sampled in eval mode. If an update scored them with random parts of the model left out, the ratio of the
two would not be 1 on an unchanged policy, and clipping and importance weights would act on noise.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch.nn.modules.dropout import _DropoutNd

#: In the names of all attributes and settings that say how much is changed at random.
RANDOM = ("drop", "jitter")


def switch_off_dropout(policy: Any) -> None:
    """Make a Transformers model compute in training mode what it computes in eval mode; says what was on.

    Architectures keep these numbers in three places: modules of torch, numbers of their own modules, and the
    configuration that they read as they run.

    Args:
        policy: Bare, without adapters: what a user asks of an adapter is another matter.
    """
    configs = {id(config): config for config in (policy.config, policy.config.get_text_config())}
    was: dict[str, float] = {}
    for owner in (*configs.values(), *policy.modules()):
        names = [name for name in vars(owner) if any(part in name.lower() for part in RANDOM)]
        if isinstance(owner, _DropoutNd):
            names.append("p")
        for name in names:
            value = getattr(owner, name)
            if isinstance(value, float) and value > 0:
                setattr(owner, name, 0.0)
                was.setdefault(name if name != "p" else "dropout", value)
    if was:
        told = ", ".join(f"{name} {value:g}" for name, value in was.items())
        rank_zero_info(f"dropout of the model is off ({told}): updates score completions as they were sampled")
