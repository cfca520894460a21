"""A sweep file and the runs that it asks for."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from lit_sdpo.errors import UserError
from lit_sdpo.shipped_configs import shipped
from lit_sdpo.yaml_files import Written, WrittenLoader, read_yaml

KEYS = ("name", "output", "config", "set", "runs", "grid")
#: One part of a name, which becomes a folder.
_PART = re.compile(r"(?!seed=)[A-Za-z0-9][A-Za-z0-9._+=-]*")


@dataclass(frozen=True)
class Run:
    """One configuration of a sweep.

    Attributes:
        name: Its folder below the sweep's output, with ``/`` between the values of a grid.
        files: Configuration files; later ones win.
        values: Values by dotted key; they win over the files.
    """

    name: str
    files: tuple[Path, ...]
    values: Mapping[str, Any]

    def arguments(self) -> list[str]:
        """What ``lit-sdpo fit`` is given for it.

        Example:
            >>> Run("a", (Path("a.yaml"),), {"data.steps": 5, "data.order": ["math"]}).arguments()
            ['--config=a.yaml', '--data.steps=5', '--data.order=["math"]']
        """
        values = {
            key: str(value) if isinstance(value, str | Written) else json.dumps(value)
            for key, value in self.values.items()
        }
        return [*(f"--config={file}" for file in self.files), *(f"--{key}={value}" for key, value in values.items())]


@dataclass(frozen=True)
class Sweep:
    """A sweep file: its name, where its runs go unless told otherwise, and the runs in the order of the file."""

    name: str
    output: Path
    runs: tuple[Run, ...]

    def only(self, patterns: Sequence[str]) -> Sweep:
        """The same with the runs whose name matches a shell pattern.

        Args:
            patterns: Such as ``grpo*`` or ``*/unnamed/*``; none keeps every run.

        Raises:
            UserError: A pattern matches no run.
        """
        for pattern in patterns:
            if not any(fnmatchcase(run.name, pattern) for run in self.runs):
                names = ", ".join(run.name for run in self.runs)
                raise UserError(f"no run matches {pattern!r}", where="--only", fix=f"the runs are: {names}")
        matching = (run for run in self.runs if any(fnmatchcase(run.name, pattern) for pattern in patterns))
        return replace(self, runs=tuple(matching)) if patterns else self


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Args:
        path: The YAML file, or the name of one that comes with the package; the files in it are relative to its folder.

    Raises:
        UserError: It is missing, is no YAML, names a missing file or an unknown key, or has two runs of one name.
    """
    if not path.is_file():
        path = shipped(path.as_posix()) or path
    content = _load(path)
    _check_keys(content, KEYS, str(path))
    name = content.get("name", path.stem)
    _check_name(name, f"{path}: name")
    output = content.get("output", f"runs/{name}")
    if not isinstance(output, str):
        raise UserError(f"{output!r} is no path", where=f"{path}: output", fix="give a folder")
    common = _entry({key: content[key] for key in ("config", "set") if key in content}, path, "config")
    runs = [
        _run([(name, _entry(entry, path, f"runs.{name}"))], common, f"{path}: runs")
        for name, entry in _mapping(content.get("runs", {}), f"{path}: runs").items()
    ]
    if axes := list(_axes(content.get("grid", {}), path)):
        runs += [_run(chosen, common, f"{path}: grid") for chosen in itertools.product(*axes)]
    if not runs:
        raise UserError("there are no runs", where=str(path), fix="add 'runs' or 'grid'")
    seen: set[str] = set()
    for run in runs:
        if (key := run.name.casefold()) in seen:  # some file systems do not tell capitals from others
            raise UserError(f"two runs are named {run.name!r}", where=str(path), fix="give each a name of its own")
        seen.add(key)
    return Sweep(name, Path(output), tuple(runs))


def read_seeds(text: str) -> list[int]:
    """Seeds and ranges of them, without repetition.

    Example:
        >>> read_seeds("0-2,7,1")
        [0, 1, 2, 7]

    Raises:
        UserError: A part is neither.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise UserError(f"{part!r} is no seed", where="--seeds", fix="give numbers and ranges such as 0-4 or 0,3,7")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))


#: Files and values that a run consists of.
_Parts = tuple[tuple[Path, ...], dict[str, Any]]


def _run(chosen: Sequence[tuple[str, _Parts]], common: _Parts, where: str) -> Run:
    """One run from the chosen value of each axis, with what all runs share: files behind its own, values before."""
    name = "/".join(str(part) for part, _ in chosen)
    _check_name(name, where)
    files = [file for _, (files, _) in chosen for file in files]
    values = dict(common[1])
    for _, (_, own) in chosen:
        values |= own
    return Run(name, (*files, *common[0]), values)


def _axes(grid: Any, path: Path) -> Iterator[list[tuple[str, _Parts]]]:
    """The named values of each axis of a grid."""
    for axis, entry in _mapping(grid, f"{path}: grid").items():
        where = f"grid.{axis}"
        entry = _mapping(entry, f"{path}: {where}")
        if set(entry) == {"set", "values"}:
            key, values = entry["set"], entry["values"]
            if not isinstance(key, str) or not isinstance(values, list) or not values:
                raise UserError("an axis of values needs a key and a list", where=f"{path}: {where}")
            yield [(f"{axis}={value}", ((), {key: value})) for value in values]
        elif entry:
            yield [(name, _entry(each, path, f"{where}.{name}")) for name, each in entry.items()]
        else:
            raise UserError("the axis has no values", where=f"{path}: {where}")


def _entry(entry: Any, path: Path, where: str) -> _Parts:
    """A file, a list of files, or ``config`` and ``set``."""
    where = f"{path}: {where}"
    if not isinstance(entry, dict):
        entry = {"config": [] if entry is None else entry}
    _check_keys(entry, ("config", "set"), where)
    names = entry.get("config", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError("files are expected", where=where, fix="give a file or a list of files")
    files = tuple(path.parent / name for name in names)
    for file in files:
        if not file.is_file():
            raise UserError(f"no configuration file {str(file)!r}", where=where, fix="paths are relative to this file")
    values = _mapping(entry.get("set", {}), f"{where}: set")
    for key in values:
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
            raise UserError(f"{key!r} is no key", where=f"{where}: set", fix="give dotted keys, such as data.steps")
    return files, values


def _mapping(value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise UserError("a YAML mapping is expected", where=where)
    return value


def _check_keys(content: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"there is no key {key!r}", where=where, fix=f"use one of: {', '.join(known)}")


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not all(_PART.fullmatch(part) for part in name.split("/")):
        fix = "use letters, digits and . _ + = -, beginning with a letter or digit, and not with seed="
        raise UserError(f"{name!r} cannot be the name of a folder", where=where, fix=fix)


def _load(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        fix = "give the path of a YAML file, or the name of one that comes with the package, such as micro/claims"
        raise UserError(f"no sweep file {str(path)!r}", fix=fix)
    return _mapping(read_yaml(path, WrittenLoader), str(path))
