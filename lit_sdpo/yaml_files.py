"""Reads YAML files so that a value means what it means on the command line, and nothing is lost on the way."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lit_sdpo.errors import UserError

#: Whole numbers: 010 is ten and 1:30 is text, other than in YAML 1.1, where they are eight and ninety.
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$")
#: Numbers with a point or an exponent: 1e-5 too, which YAML 1.1 takes for text.
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9_]+(?:[eE][-+]?[0-9]+)?)$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)


class Loader(yaml.SafeLoader):
    """YAML as configurations are written in: decimal numbers, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; YAML would take the last one of two equal keys without a word."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key!r} stands there twice", problem_mark=node.value[index][0].start_mark
                )
        return super().construct_mapping(node, deep)


def _whole(loader: Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value).replace("_", "").lower()
    base = {"0b": 2, "0o": 8, "0x": 16}.get(text.lstrip("+-")[:2], 10)
    return int(text, base)


INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in entries if tag not in (INT, FLOAT)]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(INT, _INT, list("-+0123456789"))  # type: ignore[no-untyped-call]
Loader.add_implicit_resolver(FLOAT, _FLOAT, list("-+0123456789."))  # type: ignore[no-untyped-call]
Loader.add_constructor(INT, _whole)


def read_yaml(path: Path, loader: type[Loader] = Loader) -> Any:
    """The content of a YAML file.

    Args:
        path: The file.
        loader: What numbers mean.

    Raises:
        UserError: It is no YAML, with the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        what = getattr(error, "problem", None) or str(error).split("\n")[0]
        fix = "mind brackets, colons and indentation"
        raise UserError(f"not valid YAML: {what}", where=where, fix=fix) from error
