"""Packages whose names are imported when they are first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str], rooms: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``__init__.py`` of a package.

    Type checkers do not see them: the file also has its imports below ``TYPE_CHECKING``, and ``__all__``.

    Args:
        package: The package's ``__name__``.
        modules: Names, separated by spaces, by the module that has them.
        rooms: Packages in it that are reached as attributes without an import of their own.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}
    own = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name in rooms:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        own[name] = found = getattr(import_module(homes[name]), name)  # from now on it is there
        return found

    def names() -> list[str]:
        return sorted({*own, *homes, *rooms})

    return find, names
