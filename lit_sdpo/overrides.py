"""What a later configuration replaces as a whole rather than key by key: lists, and the options of another class.

The parser merges lists of equal length place by place, and keeps of another class's options those that happen to have
the same name. Here both are taken out of the earlier configurations before the parser sees them. Only ``model`` and
``data`` keep what the old and the new class share (the model's name, the optimizer, the evaluation): they are the frame
of a run.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import yaml
from jsonargparse import Namespace

import lit_sdpo
from lit_sdpo.errors import UserError
from lit_sdpo.rewards.registry import import_object
from lit_sdpo.yaml_files import Loader

#: Keys whose class takes over what it shares with the one before.
FRAME = ("model", "data")
#: Modules whose classes can be named without a path.
NAMESPACES = (
    "lit_sdpo",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "lightning.pytorch.loggers",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.strategies",
    "lightning.pytorch.plugins",
    "lightning.pytorch.profilers",
)
Content = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A class of the frame that a later configuration has changed.

    Attributes:
        key: ``model`` or ``data``.
        old: The class before.
        new: The class from here.
        given: Options that had been given before.
    """

    key: str
    old: str
    new: str
    given: tuple[str, ...]


def give_way(earlier: Sequence[Content], later: Content) -> list[Change]:
    """Take out of earlier configurations what a later one replaces.

    Args:
        earlier: In order; they are changed.
        later: The one that wins.

    Returns:
        Changed classes of the frame.
    """
    changes: list[Change] = []
    for path, old, new in list(_replaced(merged(earlier), later)):
        old_class, new_class = class_name(old), class_name(new)
        if path in [(key,) for key in FRAME] and old_class and new_class:
            changes.append(Change(path[0], old_class, new_class, tuple(_options(old))))
            continue
        kept = _required(old, new_class) if old_class and new_class else {}
        for content in earlier:
            _remove(content, path)
        if kept:
            _put(earlier[-1], path, {"class_path": new_class, "init_args": kept})
    return changes


def merge(result: Content, content: Content) -> None:
    """Put a configuration on top of another one, key by key, in place.

    The options of a class may stand without ``init_args``.
    """
    marks = ("class_path", "init_args")
    if content and any(mark in result for mark in marks) and not any(mark in content for mark in marks):
        content = {"init_args": content}
    for key, value in content.items():
        if isinstance(value, dict):
            below = result.get(key)
            result[key] = below if isinstance(below, dict) else {}
            merge(result[key], value)
        elif key == "class_path" and key not in result:  # a reader looks for it first
            others = dict(result)
            result.clear()
            result.update({key: value} | others)
        else:
            result[key] = value


def own_defaults(config: Any, given: Any) -> None:
    """Give the classes of a parsed configuration their own defaults where nobody gave a value, in place.

    The parser fills them from the class that stands there by default: SGD would get the learning rate of a method's own
    optimizer.

    Args:
        config: The parsed configuration, or a part of it.
        given: What files and arguments say of it.
    """
    if not isinstance(config, Namespace) or not isinstance(given, Mapping):
        return
    named = class_name(given)
    options = _options(given)
    inner = config.get("init_args") if "class_path" in config else config
    if not isinstance(inner, Namespace):
        return
    if named and (found := find_class(named)) is not None:
        for parameter in inspect.signature(found).parameters.values():
            name, default = parameter.name, parameter.default
            if name in inner and name not in options and isinstance(default, bool | int | float | str | NoneType):
                inner[name] = default
    for key, value in options.items():
        if key in inner:
            own_defaults(inner[key], {"class_path": value} if isinstance(value, str) else value)


def merged(contents: Sequence[Content]) -> Content:
    """Configurations as one, later ones on top."""
    result: Content = {}
    for content in contents:
        merge(result, content)
    return result


def flag_content(argument: str, following: str = "") -> Content:
    """The configuration that one argument of a command line stands for; empty for what is none, or adds to a list.

    Args:
        argument: The argument.
        following: The next one, which is the value of a flag without ``=``.

    Example:
        >>> flag_content("--model.init_args.teacher=EMATeacher")
        {'model': {'init_args': {'teacher': 'EMATeacher'}}}
    """
    flag, separator, text = argument.partition("=")
    if not flag.startswith("--") or flag.endswith("+"):
        return {}
    try:
        value = yaml.load(text if separator else following, Loader)
    except yaml.YAMLError:
        value = text
    keys = flag[2:].split(".")
    if keys[-1] == "class_path":
        keys.pop()
        value = {"class_path": value}
    for key in reversed(keys):
        value = {key: value}
    return value if isinstance(value, dict) else {}


def class_name(value: Any) -> str:
    """The class that a value names, empty for none."""
    if isinstance(value, Mapping):
        value = value.get("class_path")
    return value if isinstance(value, str) else ""


def import_named_classes() -> None:
    """Import the package's classes that a configuration may name without a path.

    The parser looks a short name up among the subclasses that are there, and the package imports its own when they are
    first used.
    """
    for name in lit_sdpo.__all__:
        getattr(lit_sdpo, name)


def find_class(name: str) -> Any:
    """A class by its import path or short name; ``None`` where there is none."""
    if "." in name:
        try:
            return import_object(name)
        except UserError:
            return None
    modules = (importlib.import_module(module) for module in NAMESPACES)
    return next((found for module in modules if (found := getattr(module, name, None)) is not None), None)


def _replaced(old: Content, new: Content, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Places at which the new value takes the place of the whole old one, with both."""
    for key, value in new.items():
        for place in ((key,), ("init_args", key)) if key != "init_args" else ((key,),):
            inner: Any = old
            for name in place[:-1]:
                inner = inner.get(name) if isinstance(inner.get(name), dict) else {}
            if place[-1] not in inner:
                continue
            before, here = inner[place[-1]], (*path, *place)
            if isinstance(value, list):
                yield here, before, value
            elif class_name(before) and class_name(value) and _differ(class_name(before), class_name(value)):
                if isinstance(value, dict) and here in [(key,) for key in FRAME]:
                    yield from _replaced(before, {k: v for k, v in value.items() if k != "class_path"}, here)
                yield here, before, value
            elif isinstance(before, dict) and isinstance(value, dict):
                yield from _replaced(before, value, here)


def _differ(old: str, new: str) -> bool:
    one, other = find_class(old), find_class(new)
    if one is None or other is None:
        return old.rpartition(".")[2] != new.rpartition(".")[2]
    return one is not other


def _options(value: Any) -> Content:
    """What a value gives to its class."""
    if not isinstance(value, dict):
        return {}
    return {
        **{key: v for key, v in value.items() if key not in ("class_path", "init_args")},
        **(value.get("init_args") or {}),
    }


def _required(old: Any, new_class: str) -> Content:
    """Options that the new class cannot do without, as the old one had them."""
    found = find_class(new_class)
    if found is None:
        return {}
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return {}
    named = {p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in _options(old).items() if key in named}


def _remove(content: Content, path: tuple[str, ...]) -> None:
    for key in path[:-1]:
        inner = content.get(key)
        if not isinstance(inner, dict):
            return
        content = inner
    content.pop(path[-1], None)


def _put(content: Content, path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        content = content.setdefault(key, {})
    content[path[-1]] = value
