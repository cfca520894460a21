"""``null`` where a value is needed: the parser lets it through, and it would be taken for false or for a default."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

from jsonargparse import Namespace

from lit_sdpo.errors import UserError
from lit_sdpo.overrides import class_name, find_class


def null_where_a_value_is_needed(config: Namespace, owners: Mapping[str, type]) -> UserError | None:
    """The first such value of a parsed configuration, ``None`` where there is none.

    Args:
        config: The configuration.
        owners: Classes whose options the keys below a first key are.
    """
    for key, value in vars(config).items():
        kind = owners.get(key) or find_class(class_name(_plain(value)))
        for where, hint, default in _nulls(value, kind, key):
            names = " or ".join(dict.fromkeys(part.__name__ for part in _parts(hint) if isinstance(part, type)))
            fix = f"give {names or 'a value'}" + ("" if default is inspect.Parameter.empty else ", or leave it out")
            return UserError("null is no value here", where=where, fix=fix)
    return None


def _nulls(value: Any, owner: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Options that are null and may not be: their place, type and default."""
    value = _plain(value)
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _nulls(entry, owner, f"{where}[{number}]")
        return
    if not isinstance(value, dict):
        return
    if class_name(value):
        owner, value = find_class(class_name(value)), _plain(value.get("init_args") or {})
    known = _parameters(owner)
    for key, entry in value.items():
        hint, default = known.get(key, (Any, None))
        if entry is None:
            if default is not None and not _takes_none(hint):
                yield f"{where}.{key}", hint, default
            continue
        nested = next(
            (part for part in _parts(hint) if isinstance(part, type) and dataclasses.is_dataclass(part)), None
        )
        yield from _nulls(entry, nested, f"{where}.{key}")


def _plain(value: Any) -> Any:
    return dict(vars(value)) if isinstance(value, Namespace) else value


def _parameters(owner: Any) -> dict[str, tuple[Any, Any]]:
    """Type and default of each option, those that a class passes on to its bases included."""
    found: dict[str, tuple[Any, Any]] = {}
    for base in getattr(owner, "__mro__", ()):
        if "__init__" not in vars(base):
            continue
        try:
            hints = typing.get_type_hints(base.__init__)
            parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        except (NameError, TypeError, ValueError, AttributeError):
            return found
        for parameter in parameters:
            found.setdefault(parameter.name, (hints.get(parameter.name, Any), parameter.default))
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _takes_none(hint: Any) -> bool:
    return any(part in (Any, NoneType) or isinstance(part, typing.TypeVar) for part in _parts(hint))


def _parts(hint: Any) -> list[Any]:
    """A type, or the members of a union of types."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _parts(typing.get_args(hint)[0])
    if origin is typing.Union or type(hint).__name__ == "UnionType":
        return [part for member in typing.get_args(hint) for part in _parts(member)]
    return [hint]
