"""``lit-sdpo consolidate``: makes one file of a checkpoint that is divided among processes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo consolidate FOLDER FILE``.

    Args:
        arguments: Those after ``consolidate``.

    Returns:
        0.

    Raises:
        UserError: The folder is no divided checkpoint, or the file is there already.
    """
    parser = argparse.ArgumentParser(
        prog="lit-sdpo consolidate",
        description="Makes one file of a checkpoint that is a folder with a part of each process.",
    )
    parser.add_argument("folder", type=Path, help="the checkpoint")
    parser.add_argument("file", type=Path, help="where the whole one goes, such as whole.ckpt")
    options = parser.parse_args(arguments)
    from lit_sdpo.checkpoints.consolidate import consolidate  # takes seconds to import

    consolidate(options.folder, options.file)
    print(f"wrote {options.file}")
    return 0
