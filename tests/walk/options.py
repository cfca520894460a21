"""Options of a resolved configuration with their type hints, and values to try, from the hints alone."""

from __future__ import annotations

import collections.abc
import copy
import inspect
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jsonargparse._parameter_resolvers import get_signature_parameters

from lit_sdpo.rewards.registry import import_object

NO_SUCH = "no_such_name"
INTEGERS: tuple[Any, ...] = (-1, 0, 2**40, 1.5, "x")
NUMBERS: tuple[Any, ...] = (-1.0, math.nan, math.inf, 1e-45, "x")
TEXTS: tuple[Any, ...] = ("", "./no/such/path", "line\nbreak")
#: A class that fits no option.
STRANGER = {"class_path": "torch.nn.Identity"}


@dataclass(frozen=True)
class Option:
    """One key of a configuration.

    Attributes:
        path: Keys and indices that lead to it.
        owner: Where its class, or a base of it, declares it; the same for all classes that inherit it.
        hint: Its type hint.
        base: Its value in the run without it.
    """

    path: tuple[str | int, ...]
    owner: str
    hint: Any
    base: Any

    @property
    def name(self) -> str:
        """Dotted, without ``init_args``."""
        return ".".join(str(key) for key in self.path if key != "init_args")

    @property
    def key(self) -> str:
        """Names it in the tables, whatever run it is part of."""
        return f"{self.owner}.{self.path[-1]}"


@cache
def _signature(owner: type) -> list[Any]:
    return list(get_signature_parameters(owner, "__init__", logger=False))


def options_of(owner: type, values: dict[str, Any], path: tuple[str | int, ...]) -> Iterator[Option]:
    """The options of an object that ``values`` describes, and of all objects inside it."""
    for parameter in _signature(owner):
        if parameter.name not in values:
            continue
        where, value = (*path, parameter.name), values[parameter.name]
        hint = parameter.annotation
        if hint is inspect.Parameter.empty:  # as in TensorBoard's writer; the value says what is meant
            hint = Any if value is None else type(value)
        declared = getattr(parameter, "parent", None) or owner
        declared = declared[0] if isinstance(declared, tuple) else declared
        yield Option(where, getattr(declared, "__name__", owner.__name__), hint, value)
        yield from _inside(hint, value, where)


def _inside(hint: Any, value: Any, path: tuple[str | int, ...]) -> Iterator[Option]:
    if isinstance(value, dict) and "class_path" in value:
        yield from options_of(import_object(value["class_path"]), value.get("init_args") or {}, (*path, "init_args"))
    elif isinstance(value, dict):
        for kind in objects(hint):
            names = {parameter.name for parameter in _signature(kind)}
            if set(value) <= names:
                yield from options_of(kind, value, path)
                return
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _inside(hint, part, (*path, index))


def members(hint: Any) -> list[Any]:
    """The parts of a union, in order; a hint that is none is its only part."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [part for each in typing.get_args(hint) for part in members(each)]
    if isinstance(hint, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        return members(hint.__value__)
    return [hint]


def objects(hint: Any) -> list[type]:
    """The classes in a hint, inside lists too, that a configuration describes by their options."""
    found = []
    for part in members(hint):
        arguments = [each for each in typing.get_args(part) if each is not ...]
        if arguments and typing.get_origin(part) is not Literal:
            found += [each for argument in arguments if not isinstance(argument, list) for each in objects(argument)]
        elif inspect.isclass(part) and part.__module__.partition(".")[0] not in ("builtins", "pathlib", "datetime"):
            found.append(part)
    return found


def values_of(option: Option) -> Iterator[Any]:
    """Values to try, each once, none of which means what the option has already."""
    tried = [option.base]
    for value in _values(option):
        if not any(same(value, each) for each in tried):
            tried.append(value)
            yield copy.deepcopy(value)


def is_refused(option: Option, value: Any) -> bool:
    """Whether a value has to be refused, as the hint has no place for it; of others the option may make something."""
    parts = members(option.hint)
    if Any in parts:
        return False
    if value is None:
        return type(None) not in parts
    return value in ("x", "maybe", NO_SUCH, "NoSuchClass", STRANGER) and not any(part in (str, Path) for part in parts)


def same(one: Any, other: Any) -> bool:
    """Whether two values mean the same; ``true`` is not 1, and nan is itself."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


def _values(option: Option) -> Iterator[Any]:
    parts = members(option.hint)
    for part in parts:
        origin = typing.get_origin(part) or part
        if origin is Literal:
            yield from [NO_SUCH, *typing.get_args(part)]
        elif origin is bool:
            yield from ["maybe", not option.base if isinstance(option.base, bool) else True]
        elif origin is int:
            yield from INTEGERS
        elif origin is float:
            yield from NUMBERS
        elif origin in (str, Path):
            yield from TEXTS
        elif origin is tuple:
            yield from _tuples(option.base)
        elif origin in (list, collections.abc.Sequence, collections.abc.Iterable, set):
            yield from ["x", 3, []]
        elif origin in (dict, collections.abc.Mapping):
            yield from ["x", 3, {NO_SUCH: {"x": 1}}]
        elif origin is collections.abc.Callable or (inspect.isclass(origin) and origin in objects(part)):
            yield from _classes(option, is_dataclass(origin))
    yield None


def _tuples(base: Any) -> Iterator[Any]:
    yield from ["x", 3, []]
    if isinstance(base, list) and base and isinstance(base[0], int | float):
        for wrong in NUMBERS:
            yield [wrong, *base[1:]]


def _classes(option: Option, plain: bool) -> Iterator[Any]:
    yield from ["NoSuchClass", STRANGER]
    wrong = {NO_SUCH: 1}
    if plain:
        yield wrong
    elif isinstance(option.base, dict) and "class_path" in option.base:
        yield {"class_path": option.base["class_path"], "init_args": wrong}
