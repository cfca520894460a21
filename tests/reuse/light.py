"""An environment that has torch, lightning and torchmetrics, what these need, and the package without its dependencies.

``python -m tests.reuse.light FOLDER`` makes one from the packages of this environment, by links.
"""

from __future__ import annotations

import re
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import lit_sdpo

WANTED = ["torch", "lightning", "torchmetrics", "setuptools"]


def needed(names: list[str]) -> set[str]:
    """Names of installed distributions and of all that they require, without extras."""
    found: set[str] = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        names += [re.split(r"[\s<>=!~;\[(]", one)[0] for one in requirements if "extra ==" not in one]
    return found


def light_environment(folder: Path) -> Path:
    """Make it; its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in needed(list(WANTED)):
        for file in distribution(name).files or []:
            top = file.parts[0]
            source, target = Path(str(distribution(name).locate_file(top))), site / top
            if top not in ("..", "__pycache__") and source.exists() and not target.exists():
                target.symlink_to(source)
    (site / "lit_sdpo").symlink_to(Path(lit_sdpo.__file__).parent)
    return folder / "bin" / "python"


if __name__ == "__main__":
    print(light_environment(Path(sys.argv[1])))
