"""Lightning goes by two names, ``lightning.pytorch`` and ``pytorch_lightning``: the same code, other classes.

Hooks are called by name, so a callback of one works in a Trainer of the other. Where a Trainer asks for a class (its
checkpoint callback, its progress bar, its checkpoint plugin), ours is made one of the other name too.
"""

from __future__ import annotations

import sys
from abc import ABCMeta
from typing import TypeVar

from lit_sdpo.errors import UserError

T = TypeVar("T")

#: Lightning's packages, and what each is called under its other name.
OTHER_NAME = {"lightning.pytorch": "pytorch_lightning", "lightning.fabric": "lightning_fabric"}


def under_both_names(cls: type, base: type) -> None:
    """Make a class a subclass of its base's twin as well, where that package has been imported.

    Args:
        cls: A class of ours.
        base: A class of Lightning that it has among its bases.
    """
    twin: type | None = twin_of(base)
    if twin is None or issubclass(cls, twin):
        return
    if isinstance(twin, ABCMeta):
        twin.register(cls)
    else:  # has methods of its own only behind all those of the base
        cls.__bases__ = (*cls.__bases__, twin)


def both(base: type[T]) -> tuple[type[T], ...]:
    """A class of Lightning under both names, for ``isinstance``."""
    twin = twin_of(base)
    return (base,) if twin is None else (base, twin)


def twin_of(base: type[T]) -> type[T] | None:
    """What a class of Lightning is called in the package of the other name; ``None`` where that is not imported."""
    for name, other in OTHER_NAME.items():
        if base.__module__.startswith(f"{name}.") and other in sys.modules:
            module = sys.modules.get(base.__module__.replace(name, other, 1))
            found = getattr(module, base.__name__, None)
            return found if isinstance(found, type) else None
    return None


def check_trainer(trainer: object, callback: object, base: type) -> None:
    """Whether a Trainer takes a callback for what it is.

    Raises:
        UserError: It is one of the other name, which was imported after the callback was made.
    """
    other = OTHER_NAME["lightning.pytorch"]
    if _is_of(type(trainer), other) and not _is_of(type(callback), other):
        raise UserError(
            f"{type(callback).__name__} was made before pytorch_lightning was imported, so its Trainer has not known it"
            f" as a {base.__name__} and works with one of its own beside it",
            where="Trainer(callbacks=...)",
            fix="import pytorch_lightning above, before the callback is made",
        )


def _is_of(cls: type, package: str) -> bool:
    return any(one.__module__.partition(".")[0] == package for one in cls.__mro__)
