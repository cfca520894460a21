"""The command line: ``lit-sdpo fit|validate|test --config ...``. The one file that knows every room."""

from __future__ import annotations

import json
import os
import platform
import sys
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import lit_sdpo
from lit_sdpo.callbacks import (
    ForgettingMatrix,
    InitialEvaluation,
    RolloutCallback,
    SampleLogger,
    StageCheckpoint,
    StreamProgressBar,
    TensorBoardLayout,
)
from lit_sdpo.callbacks.folder import run_folder
from lit_sdpo.configs import expand
from lit_sdpo.data.datamodule import ContinualDataModule
from lit_sdpo.errors import UserError
from lit_sdpo.modules.base import OnPolicyModule

PACKAGES = ("lit-sdpo", "torch", "lightning", "transformers", "torchmetrics", "peft", "jsonargparse", "tensorboard")


class RunRecord(SaveConfigCallback):
    """Writes what a run was made of into its folder: the resolved configuration, versions, seed and command.

    A folder that already holds a record keeps it: the next one gets a number.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write ``config.yaml`` and ``environment.json``."""
        folder = run_folder(trainer)
        if self.already_saved or folder is None or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        self.already_saved = True
        folder.mkdir(parents=True, exist_ok=True)
        config = _unused(folder / self.config_filename)
        self.parser.save(self.config, config, skip_none=False, overwrite=False, multifile=self.multifile)
        environment = {
            "command": sys.argv,
            "seed": os.environ.get("PL_GLOBAL_SEED"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": {name: version(name) for name in PACKAGES},
        }
        _unused(folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")


def _unused(path: Path) -> Path:
    number = 2
    candidate = path
    while candidate.exists():
        candidate = path.with_stem(f"{path.stem}_{number}")
        number += 1
    return candidate


class LitSDPOCLI(LightningCLI):
    """Builds module, data and trainer from YAML and arguments; the callbacks of every run have keys of their own."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that every run has."""
        parser.add_lightning_class_args(RolloutCallback, "rollout")
        parser.add_lightning_class_args(ForgettingMatrix, "forgetting")
        parser.add_lightning_class_args(SampleLogger, "samples")
        parser.add_lightning_class_args(StageCheckpoint, "checkpoint")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the expanded arguments."""
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Fill in what the stream knows: as many epochs as there are stages."""
        for source in (self.config_init, self.config):
            trainer = self._get(source, "trainer")
            for key, value in self.datamodule.trainer_arguments().items():
                if trainer.get(key) is None:
                    trainer[key] = value
        return super().instantiate_trainer(**kwargs)


TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": None,
    "reload_dataloaders_every_n_epochs": 1,
    "num_sanity_val_steps": 0,
    "inference_mode": False,
    "log_every_n_steps": 1,
    "callbacks": [InitialEvaluation(), TensorBoardLayout(), StreamProgressBar()],
    "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "runs"}},
}


def run(args: list[str] | None = None) -> LitSDPOCLI:
    """Run one command in this process and return what was built.

    Args:
        args: Arguments after the program's name; ``None`` takes those of the process.
    """
    arguments = expand(sys.argv[1:] if args is None else args)
    return LitSDPOCLI(
        OnPolicyModule,
        ContinualDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=RunRecord,
        trainer_defaults=TRAINER_DEFAULTS,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "lit-sdpo", "version": lit_sdpo.__version__, "exit_on_error": False},
        args=arguments,
    )


def main(args: list[str] | None = None) -> int:
    """Entry point of ``lit-sdpo``.

    Returns:
        0 done, 1 the run failed, 2 a mistake that the user can mend.
    """
    arguments = sys.argv[1:] if args is None else args
    debug = "--debug" in arguments
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # Lightning 2.6 with torch 2.13
    if debug:
        arguments.remove("--debug")
    try:
        run(args)
    except (UserError, ArgumentError) as error:
        if debug:
            traceback.print_exc()
        print(f"lit-sdpo: error: {error}", file=sys.stderr)
        return 2
    return 0
