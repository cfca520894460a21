"""The build beyond ``pyproject.toml``: the repository's ``configs/`` go into the wheel as ``lit_sdpo/shipped``."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies the configurations, which have no second copy in the repository."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        target = Path(self.build_lib) / "lit_sdpo" / "shipped"
        if not self.editable_mode:
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("configs", target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


setup(cmdclass={"build_py": BuildWithConfigs})
