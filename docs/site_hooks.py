"""What the site has beside the pages: an API reference of every room, from the docstrings; see mkdocs.yml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[1] / "lit_sdpo"
#: Rooms that users of the package import from, in the order of the design page.
ROOMS = (
    *("modules", "callbacks", "data", "rewards", "rollouts", "policies", "likelihood", "metrics", "functional"),
    *("checkpoints", "report", "harnesses"),
)
#: A role of Sphinx, such as :class:`~lit_sdpo.Task`.
ROLE = re.compile(r":(?:py:)?[a-z]+:`(~?)([^`]+)`")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference to the navigation."""
    config.nav = [*(config.nav or []), {"Reference": [f"api/{room}.md" for room in ROOMS]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write a page per room that names its public modules."""
    for room in ROOMS:
        modules = sorted(
            ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            for path in (PACKAGE / room).rglob("*.py")
            if not any(part.startswith("_") for part in path.parts)
        )
        content = "\n\n".join([f"# lit_sdpo.{room}", *(f"::: {module}" for module in modules)]) + "\n"
        files.append(File.generated(config, f"api/{room}.md", content=content))
    return files


class Roles(Extension):
    """Docstrings name things by Sphinx's roles, which Markdown shows as code."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of anything that has one; its example becomes a section of its own."""
        if obj.docstring is not None:
            text = ROLE.sub(_code, obj.docstring.value).replace("``", "`")
            obj.docstring.value = EXAMPLE.sub("Examples:", text)


def _code(match: re.Match[str]) -> str:
    return f"`{match[2].rpartition('.')[2] if match[1] else match[2]}`"
