"""How far a run is, in the form in which rewards written for TRL read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning.pytorch as pl

from lit_sdpo.data.base import stream_of

if TYPE_CHECKING:
    from transformers import TrainerState


def trainer_state(trainer: pl.Trainer) -> TrainerState:
    """What ``trainer_state`` is for a reward: steps, epochs (one is a stage) and whether this process writes.

    Args:
        trainer: Of the run; its steps are optimizer steps.
    """
    from transformers import TrainerState  # brings half of Transformers with it

    stages = stream_of(trainer).stages
    done, stage = 0, trainer.current_epoch
    for number, each in enumerate(stages):
        if number < stage:
            done += each.steps
    steps = stages[stage].steps if stage < len(stages) else 0
    share = (trainer.global_step - done) / steps if steps else 0.0
    return TrainerState(
        epoch=stage + min(max(share, 0.0), 1.0),
        global_step=trainer.global_step,
        max_steps=sum(each.steps for each in stages),
        num_train_epochs=len(stages),
        logging_steps=getattr(trainer, "log_every_n_steps", 1),
        is_local_process_zero=trainer.local_rank == 0,
        is_world_process_zero=trainer.is_global_zero,
    )
