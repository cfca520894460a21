"""Going on from a checkpoint: is this the run that wrote it, and which values train from here on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.hooks import RemovableHandle

import lit_sdpo
from lit_sdpo.checkpoints.differences import Difference, Differences, between, check_keys, names, plain_keys
from lit_sdpo.checkpoints.random_state import of_all_ranks, set_random_state
from lit_sdpo.checkpoints.rates import Rates
from lit_sdpo.checkpoints.schema import BASE_WEIGHTS, KEY, TOKENIZER, compare, describe, stamp, weights_fingerprint
from lit_sdpo.checkpoints.settings import settings
from lit_sdpo.errors import UserError
from lit_sdpo.policies.held import policy_in

OPTIMIZERS = ("model.optimizer", "model.scheduler", "optimizer", "schedule")
SEEDS = ("seed_everything",)


class Resuming:
    """What a checkpoint says of its run, the comparison with the run that goes on, and what the new one takes over.

    Runs of the command line are compared by their whole configuration, others by what their objects were made with
    (:mod:`lit_sdpo.checkpoints.settings`); both by their data, base weights and tokenizer.

    Args:
        on_mismatch: An error, or a warning.
        may_change: Keys whose new value is wanted; keys below them are meant too.

    Attributes:
        configuration: The resolved configuration of this run; ``None`` where there is none.
    """

    def __init__(self, on_mismatch: Literal["error", "warn"], may_change: Sequence[str] = ()) -> None:
        self.on_mismatch, self.may_change = on_mismatch, plain_keys(may_change)
        self.configuration: Mapping[str, Any] | None = None
        self.reset()

    def reset(self) -> None:
        """Another fit begins."""
        self._description: dict[str, Any] | None = None
        self._base: str | None = None
        self._loading: RemovableHandle | None = None
        self._rates: Rates | None = None
        self._checkpoint: dict[str, Any] | None = None
        self._random: dict[str, Any] | None = None
        self._taken: list[Difference] = []
        self._known: set[str] = set()
        self._slots: int | None = None
        self._compared = False

    # ------------------------------------------------------------------------------------------------- before restoring
    def watch_base(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """A checkpoint's weights replace the base before any other hook: look at it, and compare, in time.

        What differs says more than weights that do not fit because of it.
        """

        def look(*_: Any) -> None:
            self._look_at_base(module)
            if (checkpoint := trainer._checkpoint_connector._loaded_checkpoint) and not self._compared:
                self.compare(trainer, module, checkpoint)

        if not trainer.strategy.restore_checkpoint_after_setup:
            self._loading = module.register_load_state_dict_pre_hook(look)

    def _look_at_base(self, module: pl.LightningModule) -> None:
        policy = policy_in(module)
        if self._base is None and policy is not None:
            self._base = weights_fingerprint(policy)

    def begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Everything is built; optimizers have not been restored yet."""
        if self._loading is not None:
            self._look_at_base(module)
            self._loading.remove()
            self._loading = None
        self._rates = Rates(trainer)
        self._compare_rates()

    # --------------------------------------------------------------------------------------------------------- contents
    def entry(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        """What a checkpoint keeps of its run."""
        return {
            **stamp(self._describe(trainer, module)),
            # Inside a stage the position counts slices of a step.
            "slots": trainer.accumulate_grad_batches if not trainer.is_last_batch else None,
            "configuration": self.configuration,
            "settings": settings(trainer, module),
            "rates": None if self._rates is None else self._rates.made,
            "random": of_all_ranks(trainer),
        }

    def _describe(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        if self._description is None:
            self._description = describe(trainer, module)
            if self._base is not None:
                self._description[BASE_WEIGHTS] = self._base
        return self._description

    # ------------------------------------------------------------------------------------------------------- comparison
    def compare(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the run of a checkpoint with this one.

        Raises:
            UserError: What decides training differs, and was not allowed to.
        """
        if self._compared:
            return
        self._compared = True
        entry = checkpoint.get(KEY)
        if entry is None:
            rank_zero_warn("The checkpoint does not say with which tasks and data it was written: not compared.")
            return
        found = self._differences(trainer, module, entry)
        self._settle(found)
        self._slots = entry["slots"]
        states = entry["random"]
        if len(states) == trainer.world_size and not any(one.within(SEEDS) for one in found.allowed):
            self._random = states[trainer.global_rank]
        self._checkpoint = checkpoint
        self._compare_rates()

    def _differences(self, trainer: pl.Trainer, module: pl.LightningModule, entry: Mapping[str, Any]) -> Differences:
        found = Differences()
        saved, now = _sides(self.configuration, entry, settings(trainer, module))
        same_release = entry["release"] == lit_sdpo.__version__
        self._known = {*names(saved), *names(now), *entry["run"], "data"}
        for difference in between(saved, now, same_release=same_release):
            found.add(difference, self.may_change)
        # What the data come to follows from their keys, the method from the model's.
        data = any(one.within(("data", *SEEDS)) for one in found.allowed) or "data" in self.may_change
        model = any(one.key in ("model", "model.model_name") for one in found.allowed)
        for difference in compare(entry["run"], self._describe(trainer, module)):
            follows = model if difference.key in ("method", BASE_WEIGHTS, TOKENIZER) else data
            found.add(difference, [difference.key] if follows else self.may_change)
        return found

    def _settle(self, found: Differences) -> None:
        """Refuse, or say what goes on with its new value."""
        if found.refused:
            lines = "".join(f"\n  {one}" for one in found.refused)
            mismatch = UserError(
                f"this run is not the one that wrote the checkpoint:{lines}",
                where="ckpt_path",
                fix="restore what differs, name in checkpoint.may_change what is to change on purpose, or go on all the"
                " same with --checkpoint.on_mismatch=warn",
            )
            if self.on_mismatch == "error":
                raise mismatch
            rank_zero_warn(str(mismatch))
            found.allowed, found.refused = [*found.allowed, *found.refused], []
        elif found.allowed:
            lines = "".join(f"\n  {one}" for one in found.allowed)
            rank_zero_warn(f"Goes on with what was changed on purpose:{lines}")
        if found.said:
            lines = "".join(f"\n  {one}" for one in found.said)
            rank_zero_info(f"Differs from the run that wrote the checkpoint, and goes on as it is now:{lines}")
        self._taken += found.allowed

    def _compare_rates(self) -> None:
        """Once there are both, optimizers and a checkpoint: optimizers of another class get no old averages."""
        if self._checkpoint is None or self._rates is None:
            return
        checkpoint, self._checkpoint = self._checkpoint, None
        entry = checkpoint[KEY]
        saved = entry.get("rates")
        made = _single(self._rates.made)
        check_keys(self.may_change, self._known | set(names(made)) | set(names(_single(saved or {}))))
        if saved is not None and (self.configuration is None or entry.get("configuration") is None):
            found = Differences()
            for difference in between(_single(saved), made):
                found.add(difference, self.may_change)
            self._settle(found)
        if self._takes_rates():
            self._rates.make_room(checkpoint, saved)

    def _takes_rates(self) -> bool:
        return any(one.within(OPTIMIZERS) for one in self._taken)

    # -------------------------------------------------------------------------------------------------- after restoring
    def take_over(self, trainer: pl.Trainer) -> None:
        """Everything is restored, and the first step is next.

        Raises:
            UserError: The place inside a stage was counted in other slices.
        """
        slots, self._slots = self._slots, None
        if slots not in (None, trainer.accumulate_grad_batches):  # a memory budget has chosen by now
            raise UserError(
                f"accumulate_grad_batches: checkpoint has {slots}, this run has {trainer.accumulate_grad_batches};"
                " inside a stage the place is counted in slices",
                where="ckpt_path",
                fix=f"set trainer.accumulate_grad_batches to {slots}, or go on from a stage's end",
            )
        random, self._random = self._random, None
        if random is not None:
            set_random_state(random)
        if self._takes_rates() and self._rates is not None:
            self._rates.take(trainer)
        self._taken = []


def _sides(configuration: Mapping[str, Any] | None, entry: Mapping[str, Any], objects: Any) -> tuple[Any, Any]:
    """The configurations where both sides have one, else what the objects were made with."""
    if configuration is not None and entry.get("configuration") is not None:
        return entry["configuration"], configuration
    return (entry["settings"], objects) if entry.get("settings") is not None else ({}, {})


def _single(made: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """One optimizer needs no number."""
    return {name: parts[0] if len(parts) == 1 else list(parts) for name, parts in made.items()}
