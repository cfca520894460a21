"""``lit-sdpo samples``: shows what a model wrote during a run."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lit_sdpo.commands.arguments import positive
from lit_sdpo.errors import UserError
from lit_sdpo.text import printable

FILE = "samples.jsonl"
DEFAULT_COUNT = 10
#: What a sample has to say, and how.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "task": str,
    "split": str,
    "stage": int,
    "step": int,
    "reward": (int, float, type(None)),
    "length": int,
    "prompt": list,
    "completion": str,
    "flags": list,
}


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo samples RUN``.

    Args:
        arguments: Those after ``samples``.

    Returns:
        0.

    Raises:
        UserError: There are no samples, or none that are asked for.
    """
    options = _parser().parse_args(arguments)
    path = _file(Path(options.run))
    records = list(read(path))
    chosen = choose(records, options)
    if not chosen:
        raise UserError(f"none of the {len(records)} samples is asked for", where=str(path), fix=_known(records))
    if options.json:
        print("\n".join(json.dumps(record, ensure_ascii=True) for record in chosen))
        return 0
    width = max(40, min(shutil.get_terminal_size().columns, 120))
    print(("\n" + "─" * width + "\n").join(show(record, width) for record in chosen))
    return 0


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a samples file; the last one may be half written.

    Raises:
        UserError: Another line is no sample.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                return
            raise UserError("the line is not JSON", where=where, fix=f"give the {FILE} of a run") from error
        if wrong := _wrong(record):
            raise UserError(f"the line is no sample: {wrong}", where=where, fix=f"give the {FILE} of a run")
        yield record


def _wrong(record: Any) -> str | None:
    """What keeps a record from being a sample."""
    if not isinstance(record, dict):
        return "it is no object"
    for key, kinds in _FIELDS.items():
        if key not in record:
            return f"it has no {key}"
        if not isinstance(record[key], kinds) or isinstance(record[key], bool):
            return f"its {key} is something else"
    for message in record["prompt"]:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            return "its prompt is no list of messages"
    if not all(isinstance(flag, str) for flag in record["flags"]):
        return "its flags are no texts"
    return None


def choose(records: Sequence[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Those that are asked for: worst or best first, otherwise the latest in the order of the file.

    Completions without a reward are neither best nor worst.
    """
    wanted = {key: getattr(options, key) for key in ("task", "split", "id", "step", "stage")}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    found = [record for record in records if all(record.get(key) == value for key, value in wanted.items())]
    if options.worst or options.best:
        judged = [record for record in found if record.get("reward") is not None]
        judged.sort(key=lambda record: record["reward"], reverse=bool(options.best))
        return judged[: options.worst or options.best]
    return found if options.id is not None else found[-DEFAULT_COUNT:]


def show(record: dict[str, Any], width: int = 80) -> str:
    """One completion for a terminal: what it is, then prompt and completion, wrapped and without control characters.

    Example:
        >>> record = {"id": "m/1", "task": "math", "split": "train", "stage": 0, "step": 3, "reward": 0.0, "length": 2}
        >>> print(show({**record, "prompt": [{"role": "user", "content": "1+1?"}], "completion": "3", "flags": []}))
        m/1 · math · train · stage 0 · step 3 · reward 0 · 2 tokens
        user
          1+1?
        completion
          3
    """
    reward = "no reward" if record.get("reward") is None else f"reward {record['reward']:.3g}"
    facts = [record["id"], record["task"], record["split"], f"stage {record['stage']}", f"step {record['step']}"]
    facts += [reward, f"{record['length']} tokens" + ("" if record.get("finished", True) else " (cut off)")]
    if record.get("advantage") is not None:
        facts.append(f"advantage {record['advantage']:+.3g}")
    if record.get("teacher_context") is not None:
        facts.append("with teacher context" if record["teacher_context"] else "without teacher context")
    facts += record.get("flags", [])
    lines = [*textwrap.wrap(" · ".join(map(printable, facts)), width)]
    for message in record["prompt"]:
        lines += [printable(message["role"]), *_wrapped(message["content"], width)]
    return "\n".join([*lines, "completion", *_wrapped(record["completion"] or "(empty)", width)])


def _wrapped(text: str, width: int) -> Iterator[str]:
    for line in text.replace("\t", "    ").split("\n"):
        yield from textwrap.wrap(
            printable(line), width, initial_indent="  ", subsequent_indent="  ", drop_whitespace=False
        ) or [""]


def _file(run: Path) -> Path:
    path = run / FILE if run.is_dir() else run
    if path.is_file():
        return path
    below = sorted(run.glob(f"*/{FILE}")) if run.is_dir() else []
    fix = f"give one of the runs below it: {', '.join(str(file.parent) for file in below[:5])}" if below else ""
    raise UserError(f"there are no samples ({FILE})", where=str(run), fix=fix or "give the folder of a run")


def _known(records: Sequence[dict[str, Any]]) -> str:
    known = {key: list(dict.fromkeys(record[key] for record in records)) for key in ("task", "split", "stage")}
    return "there are " + "; ".join(f"{key} {', '.join(map(str, values))}" for key, values in known.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-sdpo samples",
        description=f"Show completions of a run: the latest {DEFAULT_COUNT}, or those that are asked for.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help=f"run folder, or its {FILE}")
    parser.add_argument("--task", help="of this task")
    parser.add_argument("--split", choices=("train", "validation", "test"), help="of this split")
    parser.add_argument("--stage", type=int, metavar="N", help="of this stage, from 0")
    parser.add_argument("--step", type=int, metavar="N", help="after this many optimizer steps")
    parser.add_argument("--id", help="of this prompt, all of them in the order of the run")
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--worst", type=positive, metavar="N", help="the N with the lowest reward")
    order.add_argument("--best", type=positive, metavar="N", help="the N with the highest reward")
    parser.add_argument("--json", action="store_true", help="print the lines of the file")
    return parser
