"""``lit-sdpo new``: begins a project with a configuration that says what can be changed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import yaml

import lit_sdpo
from lit_sdpo.errors import UserError
from lit_sdpo.shipped_configs import SHIPPED, shipped, shipped_names

FILE, REWARDS = "run.yaml", "my_rewards.py"
#: Rows that a new project is shown with, by the names that its configuration has for them.
ROWS = {"train.jsonl": "examples/own_data_train.jsonl", "test.jsonl": "examples/own_data_test.jsonl"}


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo new FOLDER``.

    Args:
        arguments: Those after ``new``.

    Returns:
        0.

    Raises:
        UserError: There is such a configuration already, or none to begin from.
    """
    options = _parser().parse_args(arguments)
    folder = Path(options.folder)
    files = {FILE: _built_on(options.base)} if options.base else _rewarded() if options.rewards else _verified()
    if taken := [name for name in files if (folder / name).exists()]:
        raise UserError(f"there is a {taken[0]} already", where=str(folder), fix="give a folder without one")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{folder / FILE} is written. What to do next stands at its top:\n")
    top = list(takewhile(lambda line: line.startswith("#"), files[FILE].splitlines()))
    print("\n".join([f"  cd {folder}", *(f"  {line[4:]}" for line in top if line.startswith("#   "))]))
    further = [line[2:] for line in top[1:] if not line.startswith("#   ")]
    if further:
        print("\n" + "\n".join(further))
    return 0


def _verified() -> dict[str, str]:
    """The files of a project whose rows a verifier judges."""
    rows = {name: (SHIPPED / source).read_text(encoding="utf-8") for name, source in ROWS.items()}
    return {FILE: _asset("run.yaml"), **rows}


def _rewarded() -> dict[str, str]:
    """The files of a project whose rows its own rewards judge: each has a prompt and what these ask for."""
    rows = {}
    for name, source in ROWS.items():
        read = [json.loads(line) for line in (SHIPPED / source).read_text(encoding="utf-8").splitlines()]
        lines = (json.dumps({"prompt": row["question"], "answer": row["final_answer"]}) for row in read)
        rows[name] = "".join(f"{line}\n" for line in lines)
    return {FILE: _asset("rewards.yaml"), REWARDS: _asset(f"{REWARDS}.txt"), **rows}


def _asset(name: str) -> str:
    return (Path(lit_sdpo.__file__).parent / "assets" / "new" / name).read_text(encoding="utf-8")


def _built_on(name: str) -> str:
    """A configuration that extends a shipped one, whose settings stand in it as comments."""
    from lit_sdpo.configs import contents

    path = shipped(name)
    if path is None:
        raise UserError(f"no configuration {name!r} comes with the package", where="--from", fix=_known(name))
    name = path.relative_to(SHIPPED).with_suffix("").as_posix()
    settings = yaml.safe_dump(contents(name), sort_keys=False, width=100)
    head = [
        f"# Builds on {name}, which comes with the package. The next commands, in this folder:",
        f"#   lit-sdpo fit --config {FILE}",
        f"#   lit-sdpo plan {FILE}",
        f"#   lit-sdpo fit --config {FILE} --print_config",
        f"extends: {name}",
        "",
        "# What it sets. Uncomment what you change, with the keys above it.",
    ]
    return "\n".join([*head, *(f"# {line}" for line in settings.splitlines())]) + "\n"


def _known(name: str) -> str:
    names = shipped_names()
    room = [one for one in names if one.startswith(f"{name.split('/')[0]}/")]
    return f"use one of: {', '.join(room or names)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lit-sdpo new", description=__doc__)
    parser.add_argument("folder", help="where to begin; it is made")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--from", dest="base", metavar="NAME", help="a shipped configuration, such as micro/sdpo")
    begin.add_argument("--rewards", action="store_true", help="GRPO with reward functions of your own, as for TRL")
    return parser
