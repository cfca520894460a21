"""What a run's configuration comes to with every default, and whether two of them are the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_sdpo.errors import UserError
from lit_sdpo.sweep.plan import Run

if TYPE_CHECKING:
    from lit_sdpo.cli import LitSDPOCLI

#: What the sweep itself gives to each process, and what only the terminal shows: neither makes a run another one.
_APART = (
    ("config",),
    ("seed_everything",),
    ("ckpt_path",),
    *(("trainer", "logger", "init_args", key) for key in ("save_dir", "name", "version")),
    *(("trainer", key) for key in ("enable_progress_bar", "enable_model_summary")),
)
_LOGGERS = ("TensorBoardLogger", "CSVLogger")


def folder_arguments(output: Path, name: str, seed: int) -> list[str]:
    """Arguments that put a run into ``output/name/seed=<seed>``, to go on there if it has begun."""
    logger = "--trainer.logger.init_args"
    return [
        f"--seed_everything={seed}",
        f"{logger}.save_dir={output}",
        f"{logger}.name={name}",
        f"{logger}.version=seed={seed}",
        "--ckpt_path=last",
    ]


class Resolved(Mapping[str, Any]):
    """The whole configuration of a run, worked out when something of it is first asked for.

    What works it out takes seconds to import, and the commands of runs that have not begun can be told without.

    Args:
        run: The run.
        output: Folder of the whole sweep.
        parser: Reads the configurations of all runs.
    """

    def __init__(self, run: Run, output: Path, parser: Parser) -> None:
        self.run, self._parser = run, parser
        self._arguments = ["fit", *run.arguments(), *folder_arguments(output, run.name, 0)]

    def read(self) -> None:
        """Work it out now.

        Raises:
            UserError: It has a mistake, or a logger whose folder the sweep does not know.
        """
        len(self._content)

    @cached_property
    def _content(self) -> dict[str, Any]:
        try:
            found = self._parser.parse(self._arguments)
        except UserError as error:
            where = f"run {self.run.name}: {error.where}" if error.where else f"run {self.run.name}"
            raise UserError(error.what, where=where, fix=error.fix) from error
        _check_logger(found, self.run.name)
        return found

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


class Parser:
    """The parser of ``fit``, made once for all runs."""

    def __init__(self) -> None:
        self._made: LitSDPOCLI | None = None

    def parse(self, arguments: list[str]) -> dict[str, Any]:
        """What a command line comes to with every default.

        Raises:
            UserError: It has a mistake.
        """
        from lit_sdpo.cli import run  # takes seconds to import
        from lit_sdpo.dry_run import ParseOnly

        if self._made is None:
            self._made = run(arguments, ParseOnly)
        else:
            self._made.parse_arguments(self._made.parser, arguments)
        text = self._made._parser("fit").dump(self._made.config["fit"], skip_unset=False)
        content: dict[str, Any] = yaml.safe_load(text)
        return content


def resolve(runs: Sequence[Run], output: Path) -> dict[str, Resolved]:
    """The whole configuration of each run, by its name; :meth:`Resolved.read` checks it."""
    parser = Parser()
    return {run.name: Resolved(run, output, parser) for run in runs}


def _check_logger(config: Mapping[str, Any], name: str) -> None:
    logger = config["trainer"]["logger"]
    known = isinstance(logger, dict) and logger["class_path"].rpartition(".")[2] in _LOGGERS
    if not known or logger["init_args"].get("sub_dir"):
        raise UserError(
            "this logger does not write into the folder that the sweep gives to the run",
            where=f"run {name}: trainer.logger",
            fix=f"use one {' or '.join(_LOGGERS)} without sub_dir",
        )


def fingerprint(config: Mapping[str, Any]) -> str:
    """The first digits of a SHA-256 over a configuration; seed, folder and what the terminal shows left out.

    Example:
        >>> fingerprint({"seed_everything": 1, "data": {}}) == fingerprint({"seed_everything": 2, "data": {}})
        True
    """
    leaves = {".".join(key): value for key, value in _leaves(config) if key not in _APART}
    return hashlib.sha256(json.dumps(leaves, sort_keys=True, default=str).encode()).hexdigest()[:16]


def differences(recorded: Mapping[str, Any], planned: Mapping[str, Any]) -> list[str]:
    """One line for each value that differs, both sides named; seed, folder and what the terminal shows do not count.

    An option that the recorded configuration does not know has come with a later release and does not count either,
    nor does the number of epochs, which the stream fills in.

    Example:
        >>> differences({"data": {"init_args": {"steps": 5}}}, {"data": {"init_args": {"steps": 6, "new": 1}}})
        ['data.steps: recorded 5, now 6']
    """
    old, new = dict(_leaves(recorded)), dict(_leaves(planned))
    if new.get(epochs := ("trainer", "max_epochs")) is None:
        old.pop(epochs, None)
        new.pop(epochs, None)
    known = {key[:length] for key in old for length in range(1, len(key) + 1)}
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        if key in _APART or old.get(key, _ABSENT) == new.get(key, _ABSENT):
            continue
        if key not in old and _later_option(key, known):
            continue
        name = ".".join(part for part in key if part != "init_args")
        lines.append(f"{name}: recorded {old.get(key, _ABSENT)}, now {new.get(key, _ABSENT)}")
    return lines


_ABSENT = "nothing"


def _later_option(key: tuple[str, ...], known: set[tuple[str, ...]]) -> bool:
    """Whether a key lies below an option that no recorded configuration could have had."""
    from lit_sdpo.cli import CALLBACKS  # what has resolved one of the two has imported it

    groups = {("trainer",), *((name,) for name in CALLBACKS)}
    for length in range(1, len(key)):
        owner = key[:length]
        if owner in known and key[: length + 1] not in known:
            return owner in groups or owner[-1] == "init_args"
    return key[:1] not in known and key[0] in CALLBACKS


def _leaves(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All values that are neither mapping nor list, with their keys; empty ones count as values."""
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    if not parts and key:
        yield key, value
    for name, part in parts:
        yield from _leaves(part, (*key, str(name)))
