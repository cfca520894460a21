"""``lit-sdpo export``: a checkpoint as a folder that Transformers or PEFT load, compared with the checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def main(arguments: Sequence[str]) -> int:
    """Run ``lit-sdpo export``.

    Args:
        arguments: Those after ``export``.

    Returns:
        0.

    Raises:
        UserError: A mistake in the arguments, or the written model is not the checkpoint's.
    """
    options = _parser().parse_args(arguments)
    # Imported here: help and mistakes in the arguments do not wait for them.
    from lit_sdpo.checkpoints.trained import open_run
    from lit_sdpo.commands.exported import export
    from lit_sdpo.policies.exporting import check_target

    target = Path(options.out)
    check_target(target, overwrite=options.overwrite)
    run = open_run(Path(options.checkpoint), options.config)
    if options.model_name:
        changed = {**run.config, "model": {**run.config["model"], "init_args": {**run.model}}}
        changed["model"]["init_args"]["model_name"] = options.model_name
        run = dataclasses.replace(run, config=changed)
    print(f"checkpoint  {run.path}, step {run.checkpoint.get('global_step')}, SHA-256 {run.contents.sha256[:16]}...")
    found = export(run, target, adapter=options.adapter, dtype=options.dtype, overwrite=options.overwrite)
    print(f"reloaded    {found}")
    print(f"written     {target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lit-sdpo export",
        description="Write the policy of a checkpoint as a folder that Transformers loads, and compare the two.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint, or run folder (its newest checkpoint)")
    parser.add_argument("out", metavar="OUT", help="folder to write; it must be empty or not exist")
    parser.add_argument("--adapter", action="store_true", help="write the LoRA adapter for PEFT rather than merge it")
    parser.add_argument("--dtype", choices=DTYPES, help="of the written weights; default: the checkpoint's")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is in OUT")
    parser.add_argument("--config", metavar="FILE", help="configuration of the run; default: config.yaml beside CKPT")
    parser.add_argument("--model-name", metavar="NAME", help="where the base model is now, if it was moved")
    return parser
