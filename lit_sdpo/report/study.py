"""The runs of a study: which folders are runs, their methods, seeds and settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lit_sdpo.errors import UserError
from lit_sdpo.report.run import Run, read_matrix

#: A run's own folder below that of its method.
SEED, VERSION = re.compile(r"seed=(-?\d+)"), re.compile(r"version_\d+")
#: A seed within a path.
ANY_SEED = re.compile(r"\bseed=-?\d+")


class LeftOut(NamedTuple):
    """A folder that is not among the runs, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Study:
    """Runs of some methods and seeds.

    Attributes:
        all_runs: The runs, by method and seed.
        left_out: Folders that look like runs and are not among them, and why.
    """

    all_runs: Sequence[Run]
    left_out: Sequence[LeftOut] = ()

    @classmethod
    def read(cls, paths: Iterable[str | Path], unpacked: Mapping[Path, str] | None = None) -> Study:
        """Find the finished runs in some folders and below them.

        A run is a folder with ``config.yaml`` and ``matrix.json``. Its method is the path from the given folder down to
        the parent of ``seed=<n>`` or ``version_<n>``, or to the run itself where it has another name; a given folder
        that is itself that parent, or below it, names the method by its own name. Of two runs with
        one method and seed the later one counts.

        Args:
            paths: The folders.
            unpacked: Those into which an archive was unpacked, and the archive's name.

        Raises:
            UserError: A path does not exist, or there is no finished run.
        """
        archives = unpacked or {}
        runs: dict[tuple[str, int], Run] = {}
        left_out: list[LeftOut] = []
        seen: set[Path] = set()
        for root in map(Path, paths):
            if not root.is_dir():
                raise UserError("no such folder", where=str(root), fix="give folders of runs, or folders above them")
            for folder in _run_folders(root):
                if folder.resolve() in seen:
                    continue
                seen.add(folder.resolve())
                found = _read_run(folder, _method(root, folder))
                if isinstance(found, LeftOut):
                    left_out.append(found)
                    continue
                if root in archives:
                    found = replace(found, origin=f"{archives[root]}/{folder.relative_to(root).as_posix()}")
                key = found.method, found.seed
                if earlier := runs.get(key):
                    left_out.append(LeftOut(earlier.folder, f"{folder} has the same method and seed"))
                runs[key] = found
        if not runs:
            reasons = "; ".join(f"{folder}: {reason}" for folder, reason in left_out[:3])
            raise UserError(
                "no finished run" + (f" ({reasons})" if reasons else ""),
                where=", ".join(map(str, paths)),
                fix="give folders with config.yaml and matrix.json in or below them",
            )
        order = sorted(runs, key=lambda key: (_natural(key[0]), key[1]))
        return cls([runs[key] for key in order], left_out)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in order."""
        return list(dict.fromkeys(run.method for run in self.all_runs))

    @property
    def seeds(self) -> list[int]:
        """All seeds, in order."""
        return sorted({run.seed for run in self.all_runs})

    def runs(self, method: str) -> list[Run]:
        """The runs of a method, by seed; empty for an unknown one."""
        return [run for run in self.all_runs if run.method == method]

    def streams(self) -> list[Study]:
        """The runs that can be compared, together: one stream and one base each, that with most runs first."""
        groups: dict[tuple, list[Run]] = {}
        for run in self.all_runs:
            groups.setdefault(stream_key(run), []).append(run)
        return [Study(runs) for runs in sorted(groups.values(), key=len, reverse=True)]

    def settings(self, run: Run) -> dict[str, Any]:
        """What tells methods apart: :func:`settings_of` a run."""
        return settings_of(run)

    def differing(self) -> dict[str, dict[str, Any]]:
        """The settings in which any two runs differ, by method: those of its first run."""
        table = {run.folder: self.settings(run) for run in self.all_runs}
        names = next(iter(table.values()))
        varying = [name for name in names if len({str(row[name]) for row in table.values()}) > 1]
        return {m: {name: table[self.runs(m)[0].folder][name] for name in varying} for m in self.methods}


def stream_key(run: Run) -> tuple:
    """What two runs must share before their scores say anything about each other.

    It is the tasks, the probes, the stages with the steps at which they end, the world they are made in, and the model
    that training begins with.
    """
    matrix, settings = run.matrix, settings_of(run)
    rows = tuple((row.title, row.step) for row in matrix.rows)
    return tuple(matrix.tasks), tuple(matrix.probes), rows, str(settings["world"]), str(settings["base"])


def settings_of(run: Run) -> dict[str, Any]:
    """``class``, ``lr``, ``teacher``, ``base``, ``world``, ``stages``, ``steps``, ``prompts`` of a run.

    ``base`` is the model that training begins with, where bases made by seed count as one. ``steps`` are those of a
    stage, ``prompts`` those of a step. What a configuration does not have is ``None``.
    """
    model, data = _arguments(run.config.get("model")), _arguments(run.config.get("data"))
    stages = [_arguments(stage) for stage in data.get("stages") or []]
    lr = _arguments(model.get("optimizer")).get("lr")
    return {
        "class": _class_name(run.config.get("model")) or None,
        "lr": None if lr is None else float(lr),
        "teacher": _short(model["teacher"]) if model.get("teacher") else None,
        "base": ANY_SEED.sub("seed=*", str(model["model_name"])) if model.get("model_name") else None,
        "world": _plain(data["world"]) if data.get("world") else None,
        "stages": " → ".join(data.get("order") or [row.label for row in run.matrix.rows[1:]]),
        "steps": data.get("steps") or _common(stage.get("steps") for stage in stages),
        "prompts": data.get("prompts_per_step") or _common(stage.get("prompts_per_step") for stage in stages),
    }


def _run_folders(root: Path) -> Iterator[Path]:
    """Folders with a configuration, in natural order; nothing below a run is looked at."""
    for name, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=_natural)
        if "config.yaml" in files:
            if "matrix.json" in files:
                folders.clear()
            yield Path(name)


def _read_run(folder: Path, method: str) -> Run | LeftOut:
    if not (folder / "matrix.json").is_file():
        return LeftOut(folder, "no matrix.json: nothing was evaluated yet")
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        matrix = read_matrix(folder / "matrix.json")
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        first = (str(error).splitlines() or [""])[0]
        return LeftOut(folder, f"cannot be read: {type(error).__name__}: {first}")
    if not isinstance(config, dict):
        return LeftOut(folder, "config.yaml holds no mapping")
    stages = (config.get("trainer") or {}).get("max_epochs")
    done = max((row.stage for row in matrix.rows if row.step is not None), default=-1)
    if done < (stages if isinstance(stages, int) and stages > 0 else 1):
        wanted = f" of {stages}" if isinstance(stages, int) and stages > 0 else ""
        return LeftOut(folder, f"unfinished: {max(done, 0)}{wanted} stages were evaluated")
    seed = config.get("seed_everything")
    if isinstance(seed, bool) or not isinstance(seed, int):
        named = SEED.fullmatch(folder.name)
        if not named:
            return LeftOut(folder, "its seed is not known: config.yaml has no number for seed_everything")
        seed = int(named[1])
    return Run(folder, method, seed, config)


def _method(root: Path, folder: Path) -> str:
    root, folder = Path(os.path.abspath(root)), Path(os.path.abspath(folder))
    for name in (VERSION, SEED):
        folder = folder.parent if name.fullmatch(folder.name) else folder
    below = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else "."
    return folder.name if below == "." else below


def _natural(name: str) -> list[tuple[int, float, str]]:
    """Numbers in a name count as numbers, and ``1e-4`` is one: seed=2 comes before seed=10, lr=1e-4 before lr=1e-3."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", name)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


def _arguments(part: Any) -> Mapping[str, Any]:
    """Those of a class in a configuration, or of a plain mapping."""
    part = part if isinstance(part, dict) else {}
    return part.get("init_args") or {} if "class_path" in part else part


def _class_name(part: Any) -> str:
    return str(part.get("class_path", "")).rpartition(".")[2] if isinstance(part, dict) else str(part or "")


def _short(part: Any) -> str:
    """A class with its arguments that are set, such as ``EMATeacher(update_rate=0.05)``."""
    return f"{_class_name(part)}({_plain(_arguments(part))})"


def _plain(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={x}" for name, x in values.items() if x is not None)


def _common(values: Iterable[Any]) -> Any:
    """The value that all share; else all of them, as text."""
    found = list(values)
    return found[0] if len(set(map(str, found))) == 1 else ", ".join(map(str, found)) or None
