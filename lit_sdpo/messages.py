"""One short message for a mistake in the configuration: what, where, what would be right.

jsonargparse reports a mistake deep inside a class as nested blocks, one per member of each union. The reader of a
command line needs the innermost line, the dotted key that leads to it, and what is allowed there.
"""

from __future__ import annotations

import difflib
import inspect
import re
import traceback
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from lit_sdpo.errors import UserError, lacks_memory, reason
from lit_sdpo.rewards.registry import import_object
from lit_sdpo.trl_names import answer as trl_answer

#: Lines of a report that say nothing about the mistake itself.
_NOISE = re.compile(
    r"(- )?(Expected a path but .*|Expected a <class 'NoneType'>.*|Does not validate against any of .*|Errors:|"
    r"Given value.*|Subtypes:.*|)$"
)
_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}
_KINDS |= {"list": "a list", "dict": "a mapping"}


@dataclass
class _Place:
    """Where in the configuration a line of a report belongs to."""

    keys: list[str] = field(default_factory=list)
    owner: str = ""  # class path of what has the last key
    types: list[str] = field(default_factory=list)  # class paths that are allowed there
    lines: list[str] = field(default_factory=list)


def explain_parsing(report: str, *, keys: Iterable[str] = (), namespaces: Sequence[ModuleType] = ()) -> UserError:
    r"""The mistake in a report of jsonargparse.

    Args:
        report: Text of its error.
        keys: The dotted keys that the command accepts.
        namespaces: Modules whose classes can be named without a path.

    Example:
        >>> report = '''Parser key "trainer.precision":
        ...   Subtypes: [typing.Literal['16-true', '32-true'], <class 'NoneType'>]
        ...   Errors:
        ...     - Expected a typing.Literal['16-true', '32-true']. Got value: fp7'''
        >>> print(explain_parsing(report))
        trainer.precision: 'fp7' is not allowed. Use one of: 16-true, 32-true.
    """
    if found := re.search(r"(?:unrecognized arguments: --|does not accept option ')([\w.-]+)", report):
        return _unknown_key(found[1], keys)
    if found := re.match(r"the following arguments are required: (.*)", report):
        missing = ", ".join(name.rpartition("fit.")[2] for name in found[1].split(", "))
        return UserError(f"no {missing} given", fix="give a configuration, --config FILE, or the arguments themselves")
    place = _innermost(report)
    where, text = ".".join(place.keys), "\n".join(place.lines)
    if found := re.search(r"Option '(.+?)' is not accepted", text):
        option = found[1]
        nested = re.search(r"class_path='([\w.]+)'", text)
        owner = nested[1] if nested else place.owner
        fix = trl_answer(option) or _choose(option, _options(owner))
        return UserError(f"{owner.rpartition('.')[2]} has no option {option!r}", where=f"{where}.{option}", fix=fix)
    given = re.search(r"Given value: (.*?)(?:\. Got value: .*)?$", report, re.MULTILINE)
    kinds = re.findall(r"Expected an? <class '(float|int|bool|str)'>", text)
    path = re.search(r"Expected a dot import path string: (.*)", text)
    if path and not {"float", "int"} & set(kinds):
        fix = _choose(path[1], _class_names(place, namespaces), other="the import path of your own class")
        return UserError(f"there is no class {path[1]!r}", where=where, fix=fix)
    if lost := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        fix = _choose(lost[2], _class_names(place, namespaces), other="the import path of your own class")
        return UserError(f"there is no class '{lost[1]}.{lost[2]}'", where=where, fix=fix)
    if found := re.search(r"the following arguments are required: (.*)", text):
        return UserError(f"{place.owner.rpartition('.')[2]} lacks {found[1]}", where=where, fix=f"add {found[1]}")
    got = re.search(r"Got value: (.*)", text)
    value = got[1] if got else given[1] if given else ""
    if choices := [c for group in re.findall(r"Literal\[(.*?)\](?:\.|\n|$)", text) for c in group.split(", ")]:
        names = list(dict.fromkeys(choice.strip("'\"") for choice in choices))
        return UserError(f"{value!r} is not allowed", where=where, fix=_choose(value, names))
    if value.startswith(("Namespace(", "NestedArg(")) and re.search("Expected an? <class", text):  # the parser's words
        return UserError("the value does not fit", where=where, fix="see --print_config for what belongs there")
    if kinds:
        names = list(dict.fromkeys(_KINDS[kind] for kind in sorted(kinds, key=list(_KINDS).index)))
        return UserError(f"{value!r} is not allowed", where=where, fix=f"give {', or '.join(names)}")
    if found := re.search(r"Expected an? <class '(\w+)'>", text):
        return UserError(f"{value!r} is not allowed", where=where, fix=f"give {_KINDS.get(found[1], found[1])}")
    return UserError(place.lines[0] if place.lines else report.strip().splitlines()[0], where=where)


def explain_building(
    error: BaseException, keys: Iterable[str] = (), owners_of: Mapping[str, type] | None = None
) -> UserError | None:
    """The mistake behind an error of a constructor; ``None`` where it was not the input's fault.

    What other libraries raise while they build what a configuration asks for is about the configuration; of this
    package's own code only what it refuses on purpose is.

    Args:
        error: What building the objects has raised.
        keys: The dotted keys of the configuration.
        owners_of: The class, or a base of it, that a first part of a key belongs to, where several have an option of
            the same name.
    """
    while error.__cause__ is not None and not isinstance(error, UserError):
        error = error.__cause__
    mistake = error if isinstance(error, UserError) else None
    if mistake is not None and mistake.where:
        return UserError(mistake.what, where=mistake.where, fix=mistake.fix)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if lacks_memory(error):
        return None
    own = bool(frames) and str(frames[-1].f_globals.get("__name__")).partition(".")[0] == "lit_sdpo"
    if own and not isinstance(error, UserError | ValueError):  # a defect of ours
        return None
    owners = [type(f.f_locals["self"]) for f in frames if f.f_code.co_name in ("__init__", "__post_init__")]
    if not owners:
        return mistake
    owner = owners[-1]
    named = [name for name in _parameters(owner) if re.search(rf"\b{name}\b", str(error))]
    places = [key for key in keys if named and key.rpartition(".")[2] == named[0]]
    tops = owners_of or {}
    fitting = [place for place in places if _is_of(owners, tops.get(place.partition(".")[0]))]
    direct = [
        place for place in fitting if place.count(".") == 1 and _is_of([owner], tops.get(place.partition(".")[0]))
    ]
    places = direct or fitting or places
    where = places[0] if len(places) == 1 else "trainer" if owner.__name__.startswith("_") else owner.__name__
    what, fix = (mistake.what, mistake.fix) if mistake is not None else (reason(error, most=300), "")
    if isinstance(error, MemoryError):
        what, fix = "what it asks for does not fit into memory", "give a smaller number"
    return UserError(what, where=where, fix=fix)


def _is_of(owners: Sequence[type], kind: type | None) -> bool:
    return kind is not None and any(issubclass(owner, kind) for owner in owners)


def _unknown_key(key: str, keys: Iterable[str]) -> UserError:
    head, _, last = key.rpartition(".")
    known = set(keys)
    while head and head not in known:
        head, _, last = head.rpartition(".")
    prefix = f"{head}." if head else ""
    siblings = sorted({k.removeprefix(prefix).partition(".")[0] for k in known if k.startswith(prefix)})
    return UserError("there is no such key", where=prefix + last, fix=trl_answer(last) or _choose(last, siblings))


def _innermost(report: str) -> _Place:
    """The place of the first line that says something, with all such lines of the same place."""
    place = _Place()
    owner = ""
    for line in map(str.strip, report.splitlines()):
        if place.lines and line.startswith(("Parser key", "Given value", "Problem with")):
            break
        if found := re.search(r'(?:^|^- |: )Parser key "(.+?)":$', line):
            place.keys.append(found[1])
            place.owner, place.types = owner, []
        elif found := re.match(r"(?:- )?Problem with given class_path '(.+?)':", line):
            owner = place.owner = found[1]
        elif line.startswith("Subtypes:"):
            place.types = re.findall(r"<class '([\w.]+)'>", line)
        elif not _NOISE.match(line):
            place.lines.append(line.removeprefix("- "))
    return place


def _choose(given: str, known: Sequence[str], other: str = "") -> str:
    """Advise the names close to the given one, else all of them."""
    known = [name for name in known if name != given]  # a base class may know what the class in question does not
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.7)
    names = close or list(known)
    if not names:
        return f"use {other}" if other else ""
    start = f"perhaps you mean {' or '.join(close)}" if close else f"use one of: {', '.join(names)}"
    return f"{start}; or {other}" if other else start


def _parameters(owner: type) -> list[str]:
    """Names of what a constructor accepts, those that it passes on to its bases included."""
    names: list[str] = []
    for base in owner.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]  # type: ignore[misc]
        names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
    return list(dict.fromkeys(names))


def _options(owner: str) -> list[str]:
    try:
        found = import_object(owner)
    except UserError:
        return []
    return _parameters(found) if isinstance(found, type) else list(inspect.signature(found).parameters)


def _class_names(place: _Place, namespaces: Sequence[ModuleType]) -> list[str]:
    """Names of the classes that fit the key of a place."""
    bases = [import_object(path) for path in place.types if path.rpartition(".")[0] and "NoneType" not in path]
    if not bases and place.owner:
        owner = import_object(place.owner)
        for base in owner.__mro__:
            if place.keys[-1] in inspect.signature(base.__init__).parameters:
                bases = list(_types(typing.get_type_hints(base.__init__)[place.keys[-1]]))
                break
    known = [pair for module in namespaces for pair in inspect.getmembers(module, inspect.isclass)]
    fitting = [name for name, each in known if issubclass(each, tuple(bases)) and not inspect.isabstract(each)]
    return sorted(set(fitting))


def _types(hint: Any) -> Iterable[type]:
    """All classes in a type hint."""
    if isinstance(hint, type) and not typing.get_args(hint):
        yield hint
    for part in hint if isinstance(hint, list) else typing.get_args(hint):
        yield from _types(part)
