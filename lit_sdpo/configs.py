"""Configuration files that build on others: ``extends: base.yaml`` at the top of a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lit_sdpo.errors import UserError
from lit_sdpo.overrides import Change, flag_content, give_way, merge, merged
from lit_sdpo.shipped_configs import SHIPPED, shipped
from lit_sdpo.yaml_files import read_yaml

KEY = "extends"


def expand(arguments: Sequence[str]) -> list[str]:
    """Replace each ``--config FILE`` by the files that FILE extends, outermost first, and FILE's own content.

    Modules beside a file, and in the working folder, can be named by their import path. A path in ``extends`` is
    relative to the file that names it. What is no file may be the name of one that comes with
    the package, such as ``micro/sdpo``. Later files win, key by key; what a later file or
    argument replaces as a whole (:mod:`lit_sdpo.overrides`) is left out of the earlier ones.

    Args:
        arguments: Command-line arguments.

    Raises:
        UserError: A file is missing, is no YAML mapping, or extends itself.
    """
    return combine(arguments).arguments


class Combined(NamedTuple):
    """Arguments whose files have been read.

    Attributes:
        arguments: Those that the parser is given.
        changes: Classes of ``model`` and ``data`` that have been changed on the way.
        given: What all of them say, as one configuration.
    """

    arguments: list[str]
    changes: list[Change]
    given: dict[str, Any]


def combine(arguments: Sequence[str]) -> Combined:
    """The arguments of :func:`expand`, and what they come to."""
    result: list[str | dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    given: list[dict[str, Any]] = []
    changes: list[Change] = []
    rest = list(_split(arguments))
    for number, (argument, file) in enumerate(rest):
        if file is None:
            following = rest[number + 1][0] if number + 1 < len(rest) else ""
            given.append(flag_content(argument, following))
            changes += give_way(groups, given[-1])
            result.append(argument)
            continue
        for _, content in _contents(file, seen=()):
            changed = give_way(groups, content)
            changes += changed
            # Of another class of the frame, the parser itself knows which options it does not have.
            if changed or not result or isinstance(result[-1], str):
                groups.append({})
                given.append(groups[-1])
                result.append(groups[-1])
            merge(groups[-1], content)
    made: list[str] = []
    for entry in result:
        made += [entry] if isinstance(entry, str) else ["--config", yaml.safe_dump(entry, sort_keys=False)]
    return Combined(made, changes, merged(given))


def origin(arguments: Sequence[str], key: str) -> Path | None:
    """The file that a value comes from; ``None`` where the command line gives it, or nothing does.

    Args:
        arguments: Command-line arguments, before :func:`expand`.
        key: Dotted key, without ``init_args``.
    """
    found: Path | None = None
    for argument, file in _split(arguments):
        if file is not None:
            holders = [path for path, content in _contents(file, seen=()) if _holds(content, key.split("."))]
            found = holders[-1] if holders else found
        elif argument.startswith("--"):
            flag = argument[2:].partition("=")[0].rstrip("+").replace(".init_args", "").removesuffix(".class_path")
            found = None if key == flag or key.startswith(f"{flag}.") else found
    return found


def make_importable(folder: Path) -> None:
    """Let modules in a folder be named by import paths, after those that are installed; then those of the working one.

    Worker processes look where this one does.
    """
    for each in (str(folder), os.getcwd()):
        if each not in sys.path:
            sys.path.append(each)


def _split(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each argument, with the name of the file for ``--config``."""
    rest = iter(arguments)
    for argument in rest:
        flag, separator, value = argument.partition("=")
        if flag in ("--config", "-c"):
            yield flag, value if separator else next(rest, "")
        else:
            yield argument, None


def _holds(content: Any, keys: Sequence[str]) -> bool:
    if not keys or isinstance(content, list):
        return True
    if not isinstance(content, dict):
        return False
    inner = content.get("init_args")
    return (keys[0] in content and _holds(content[keys[0]], keys[1:])) or (inner is not None and _holds(inner, keys))


def contents(name: str) -> dict[str, Any]:
    """What a file and those that it extends come to.

    Raises:
        UserError: As of :func:`expand`.
    """
    return merged([content for _, content in _contents(name, seen=())])


def _contents(name: str, seen: tuple[Path, ...], beside: Path | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """The files that ``name`` extends and itself, with their content."""
    path = Path(name) if beside is None else beside / name
    if not path.is_file() and (found := shipped(name)) is not None:
        path = found
    if not path.is_file():
        where = f"{seen[-1].name}: {KEY}" if seen else "--config"
        fix = "give the path of a YAML file, or the name of one that comes with the package, such as micro/sdpo"
        raise UserError(f"no configuration file {str(path)!r}", where=where, fix=fix)
    if path.resolve() in seen:
        chain = " -> ".join(p.name for p in (*seen, path))
        raise UserError(f"the file extends itself ({chain})", where=f"{name}: {KEY}", fix="remove the circle")
    if not path.is_relative_to(SHIPPED):
        make_importable(path.absolute().parent)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError("holds no keys", where=str(path), fix="give a YAML mapping")
    bases = content.pop(KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    below = (*seen, path.resolve())
    files = [file for base in bases for file in _contents(base, below, path.parent)]
    return [*files, (path, content)] if content else files
