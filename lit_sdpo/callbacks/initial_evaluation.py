"""Row 0: how good the model is before anything is trained."""

from __future__ import annotations

import lightning.pytorch as pl
from typing_extensions import override


class InitialEvaluation(pl.Callback):
    """Run the whole validation loop once before the first training step.

    Lightning's sanity check throws its metrics away and ``trainer.validate`` cannot run inside ``fit``. This callback
    runs ``fit``'s own validation loop, so hooks, logging (at step 0) and ``trainer.callback_metrics`` behave as in
    every later validation. A resumed run has taken steps already and is not evaluated again.

    Works with any LightningModule. ``limit_val_batches=0`` and modules without validation are left alone.

    Example:
        >>> trainer = pl.Trainer(callbacks=[InitialEvaluation()], logger=False, enable_checkpointing=False)
    """

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > 0 or trainer.current_epoch > 0 or not trainer.enable_validation:
            return
        trainer.validating = True
        try:
            trainer.fit_loop.epoch_loop.val_loop.run()
        finally:
            trainer.training = True
