"""Configuration files that build on others: ``extends: base.yaml`` at the top of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from lit_sdpo.errors import UserError

KEY = "extends"


def expand(arguments: Sequence[str]) -> list[str]:
    """Replace each ``--config FILE`` by the files that FILE extends, outermost first, and FILE's own content.

    A path in ``extends`` is relative to the file that names it. Later files win, key by key.

    Args:
        arguments: Command-line arguments.

    Raises:
        UserError: A file is missing, is no YAML mapping, or extends itself.
    """
    result: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, separator, value = argument.partition("=")
        if flag not in ("--config", "-c"):
            result.append(argument)
            continue
        if not separator:
            value = next(rest, "")
        for text in _contents(value, seen=()):
            result += ["--config", text]
    return result


def _contents(name: str, seen: tuple[Path, ...]) -> list[str]:
    path = Path(name)
    if not path.is_file():
        raise UserError(f"no configuration file {name!r}", where="--config", fix="give the path of a YAML file")
    path = path.resolve()
    if path in seen:
        chain = " -> ".join(p.name for p in (*seen, path))
        raise UserError(f"the file extends itself ({chain})", where=f"{name}: {KEY}", fix="remove the circle")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML ({str(error).replace(chr(10), ' ')})", where=name) from error
    if not isinstance(content, dict):
        raise UserError("holds no keys", where=name, fix="give a YAML mapping")
    bases = content.pop(KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    texts = [text for base in bases for text in _contents(str(path.parent / base), (*seen, path))]
    return [*texts, yaml.safe_dump(content, sort_keys=False)] if content else texts
