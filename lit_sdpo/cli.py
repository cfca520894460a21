"""The commands that run a configuration, ``lit-sdpo fit|validate|test``. The one file that knows every room."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException
from transformers.utils.logging import disable_progress_bar

import lit_sdpo
from lit_sdpo.callbacks import (
    ForgettingMatrix,
    InitialEvaluation,
    LikelihoodEvaluation,
    MemoryBudget,
    RolloutCallback,
    SampleLogger,
    StageCheckpoint,
    StreamProgressBar,
    TensorBoardLayout,
)
from lit_sdpo.checkpoints import SafeCheckpointIO
from lit_sdpo.checkpoints.last import REFUSED, check_unused, last_checkpoint
from lit_sdpo.checkpoints.lock import NAME as LOCK
from lit_sdpo.checkpoints.lock import RunLock
from lit_sdpo.checkpoints.manifest import FOLDER, in_order
from lit_sdpo.configs import combine, origin
from lit_sdpo.credentials import arguments_without_secrets
from lit_sdpo.data.datamodule import ContinualDataModule, verifiers_of
from lit_sdpo.errors import UserError
from lit_sdpo.failures import is_full
from lit_sdpo.files import set_aside, write_atomically
from lit_sdpo.folders import run_folder
from lit_sdpo.heartbeat import still_at
from lit_sdpo.main import main as main
from lit_sdpo.messages import explain_building, explain_parsing
from lit_sdpo.modules.base import OnPolicyModule
from lit_sdpo.nulls import null_where_a_value_is_needed
from lit_sdpo.overrides import import_named_classes, own_defaults
from lit_sdpo.rewards.registry import register_verifiers
from lit_sdpo.versions import version_of

import_named_classes()

PACKAGES = ("lit-sdpo", "torch", "lightning", "transformers", "torchmetrics", "peft", "jsonargparse", "tensorboard")

#: The callbacks that every run has, by their key in the configuration.
CALLBACKS: dict[str, type[pl.Callback]] = {
    "rollout": RolloutCallback,
    "forgetting": ForgettingMatrix,
    "samples": SampleLogger,
    "checkpoint": StageCheckpoint,
    "memory": MemoryBudget,
}


#: Whose options the keys below a first part of a key are.
OWNERS: dict[str, type] = {**CALLBACKS, "model": pl.LightningModule, "data": pl.LightningDataModule}


class RunRecord(SaveConfigCallback):
    """Writes what a run was made of into its folder: the resolved configuration, versions, seed and command.

    ``config.yaml`` and ``environment.json`` are those of the latest process that has trained here; earlier ones have a
    number, ``config_1.yaml`` being the first. While a run trains, no other process can train in its folder. A run that
    is refused before it trains leaves the reason in place of a record, and ``ckpt_path: last`` passes it over.
    """

    lock: RunLock | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the folder to train in; what only evaluates has its record beside that of the run."""
        folder = run_folder(trainer)
        if folder is None:
            return
        if stage == "fit":
            self._take(trainer, folder)
        elif trainer.is_global_zero:
            for name, text in self._records().items():
                folder.mkdir(parents=True, exist_ok=True)
                _unused(folder / name).write_text(text, encoding="utf-8")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``config.yaml`` and ``environment.json``, now that nothing was refused."""
        folder = run_folder(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        for name, text in self._records().items():
            path = folder / name
            if path.exists() and path.read_text(encoding="utf-8") != text:
                set_aside(path)
            write_atomically(path, text)
        (folder / REFUSED).unlink(missing_ok=True)

    def _records(self) -> dict[str, str]:
        environment = {
            "command": arguments_without_secrets(sys.argv),
            "seed": os.environ.get("PL_GLOBAL_SEED"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "trusted_code": self._trusted_code(),
            "versions": {name: version_of(name) for name in PACKAGES},
        }
        config = self.parser.dump(self.config, skip_unset=False)
        return {self.config_filename: config, "environment.json": json.dumps(environment, indent=2) + "\n"}

    def _trusted_code(self) -> str | None:
        """The model whose own Python code was allowed to run; ``None`` for no such model."""
        given = self.config.get("model.init_args") or Namespace()
        return given.get("model_name") if given.get("trust_remote_code") else None

    def _take(self, trainer: pl.Trainer, folder: Path) -> None:
        refusal = None
        if trainer.is_global_zero:
            self.lock = RunLock(folder)
            try:
                self.lock.acquire()
            except UserError as error:
                refusal = error
        if (refusal := trainer.strategy.broadcast(refusal)) is not None:
            raise refusal

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the folder back; one that nothing was written to goes."""
        if self.lock is not None:
            self.lock.release()
            with contextlib.suppress(OSError):
                self.lock.path.parent.rmdir()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the folder back; an event file does not say where it is when its disk is full."""
        if isinstance(exception, OSError) and is_full(exception) and exception.filename is None and self.lock:
            exception.filename = str(self.lock.path.parent)
        if isinstance(exception, UserError) and self.lock is not None and self.lock.held:
            self._say_why(self.lock.path.parent, str(exception))
        self.teardown(trainer, pl_module, "fit")

    def _say_why(self, folder: Path, reason: str) -> None:
        """Nothing was trained or evaluated in a new folder: say why, unless there is nothing else in it."""
        if (folder / "samples.jsonl").exists() or in_order(folder / FOLDER):
            return
        for name in (self.config_filename, "environment.json"):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (folder / FOLDER).rmdir()
        if any(path.name != LOCK for path in folder.iterdir()):
            (folder / REFUSED).write_text(reason + "\n", encoding="utf-8")


def _located(mistake: UserError, arguments: Any) -> UserError:
    """The same, with the file that the value comes from."""
    file = origin(arguments, mistake.where)
    return UserError(mistake.what, where=f"{file}: {mistake.where}", fix=mistake.fix) if file else mistake


def _unused(path: Path) -> Path:
    number = 2
    candidate = path
    while candidate.exists():
        candidate = path.with_stem(f"{path.stem}_{number}")
        number += 1
    return candidate


class LitSDPOCLI(LightningCLI):
    """Builds module, data and trainer from YAML and arguments; the callbacks of every run have keys of their own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs.get("args") or ()
        self._command = given[0] if given else ""
        super().__init__(*args, **kwargs)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        # Looking through the signatures of a command takes a while, and nobody asks for those of the others.
        if self._command in self.subcommands() and self._command != subcommand:
            return self.init_parser(**kwargs)
        return super()._prepare_subcommand_parser(klass, subcommand, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that every run has."""
        for key, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, key)
        parser.set_defaults({"checkpoint.signals": True})

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Evaluation and training; the commands with the arguments that are not the user's."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule"},
            "test": {"model", "dataloaders", "datamodule"},
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the expanded arguments.

        Raises:
            UserError: One mistake in them.
        """
        combined = combine(args)
        try:
            self.config = parser.parse_args(combined.arguments)
        except ArgumentError as error:
            chosen = self._subcommand_parsers.get(args[0]) if args else None
            keys = chosen.get_defaults(skip_validation=True).keys(branches=True) if chosen else ()
            mistake = explain_parsing(str(error), keys=keys, namespaces=(lit_sdpo, torch.optim))
            raise _located(mistake, args) from error
        config = self.config.get(self.config.subcommand) or Namespace()
        own_defaults(config, combined.given)
        if (null := null_where_a_value_is_needed(config, {**CALLBACKS, "trainer": pl.Trainer})) is not None:
            raise _located(null, args)
        register_verifiers(verifiers_of(config.get("data")))
        for change in combined.changes:
            kept = [name for name in change.given if name in (config[change.key].get("init_args") or {})]
            if kept and change is [other for other in combined.changes if other.key == change.key][-1]:
                print(f"note: {change.key}: {change.new} takes over {', '.join(kept)} of {change.old}", file=sys.stderr)

    def _set_seed(self) -> None:
        """Seed the run.

        Raises:
            UserError: A seed that is out of bounds.
        """
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(str(error), where="seed_everything") from error

    def _parse_ckpt_path(self) -> None:
        """Nothing in a checkpoint changes the configuration; it is read once, when the run goes on."""

    def instantiate_classes(self) -> None:
        """Build everything.

        Raises:
            UserError: A value that a constructor refuses.
        """
        config = self.config[self.subcommand]
        path = config.get("ckpt_path")
        elsewhere = path in (None, "last", "hpc", "registry") or "://" in path
        if not elsewhere and not (path and Path(path).exists()):
            raise UserError(f"no checkpoint {path!r}", where="--ckpt_path", fix="give the path of a .ckpt file")
        try:
            with still_at("building model, data and trainer"):
                self._build(path)
        except Exception as error:
            mistake = explain_building(error, (key.replace(".init_args", "") for key in config.keys()), OWNERS)  # noqa: SIM118
            if mistake is None:
                raise
            raise mistake from error

    def _build(self, path: str | None) -> None:
        # Lightning 2.6 calls a method of the parser that jsonargparse has deprecated.
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule, self.model = self._get(self.config_init, "data"), self._get(self.config_init, "model")
        self.trainer = self.instantiate_trainer()
        if path == "last":
            self.config_init[self.subcommand].ckpt_path = last_checkpoint(self.trainer, go_on=self.subcommand == "fit")
        if self.subcommand == "fit" and not self._get(self.config_init, "ckpt_path"):
            check_unused(self.trainer)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Fill in what the stream knows, and leave out callbacks that the trainer's flags have switched off."""
        for source in (self.config_init, self.config):
            trainer = self._get(source, "trainer")
            for key, value in self.datamodule.trainer_arguments().items():
                if trainer.get(key) is None:
                    trainer[key] = value
        plugins = self._get(self.config_init, "trainer").get("plugins") or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            self._get(self.config_init, "trainer").plugins = [*plugins, SafeCheckpointIO()]
        if trainer.get("enable_progress_bar") is False:
            kept = [c for c in self.trainer_defaults["callbacks"] if not isinstance(c, pl.callbacks.ProgressBar)]
            self.trainer_defaults["callbacks"] = kept
        if trainer.get("enable_checkpointing") is False:
            if self.subcommand == "fit":
                self._check_without_checkpoints()
            self._parser(self.subcommand).callback_keys.remove("checkpoint")
        made = super().instantiate_trainer(**kwargs)
        if self.subcommand == "fit":
            text = self._parser("fit").dump(self.config["fit"], skip_unset=False)
            for callback in made.checkpoint_callbacks:
                if isinstance(callback, StageCheckpoint):
                    callback.resuming.configuration = json.loads(json.dumps(yaml.safe_load(text), default=str))
        return made

    def _check_without_checkpoints(self) -> None:
        """Nothing that asks for checkpoints is passed over where they are switched off.

        Raises:
            UserError: Naming what does.
        """
        for key, why in (
            ("checkpoint.every_n_steps", "it asks for checkpoints"),
            ("ckpt_path", "what saves them is what compares this run with the one that goes on"),
        ):
            if self._get(self.config, key):
                fix = "set it to true, or leave out one of the two"
                raise UserError(f"it is false, and {key} is set: {why}", where="trainer.enable_checkpointing", fix=fix)

    def after_fit(self) -> None:
        """Say where the results are."""
        folder = run_folder(self.trainer)
        if folder is not None and self.trainer.is_global_zero:
            print(f"run folder:  {folder}")
            print(f"tensorboard: tensorboard --logdir {folder}")
            if (samples := folder / "samples.jsonl").exists():
                print(f"samples:     {samples}")


def trainer_defaults() -> dict[str, Any]:
    """What a run's trainer is given unless the configuration says otherwise; callbacks are new ones each time."""
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "runs"}}
    return {
        "max_epochs": None,
        "reload_dataloaders_every_n_epochs": 1,
        "num_sanity_val_steps": 0,
        "inference_mode": False,
        "log_every_n_steps": 1,
        "callbacks": [InitialEvaluation(), LikelihoodEvaluation(), TensorBoardLayout(), StreamProgressBar()],
        "logger": logger,
    }


def run(args: list[str] | None = None, cli: type[LitSDPOCLI] = LitSDPOCLI) -> LitSDPOCLI:
    """Run one command in this process and return what was built.

    Args:
        args: Arguments after the program's name; ``None`` takes those of the process.
        cli: What to build from them.

    Raises:
        UserError: A mistake in the input.
    """
    return cli(
        OnPolicyModule,
        ContinualDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=RunRecord,
        trainer_defaults=trainer_defaults(),
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        parser_kwargs={
            "prog": "lit-sdpo",
            "description": "Trains language models through a stream of tasks and measures what they forget.",
            "version": lit_sdpo.__version__,
            "exit_on_error": False,
            "allow_abbrev": False,
        },
        args=sys.argv[1:] if args is None else args,
    )


def train(arguments: list[str]) -> int:
    """Run one command as the program does.

    Returns:
        0 done, 143 terminated.

    Raises:
        UserError: A mistake in the input.
    """
    disable_progress_bar()  # of loading weights
    try:
        run(arguments)
    except SIGTERMException as leave:
        return int(leave.code or 143)
    return 0
