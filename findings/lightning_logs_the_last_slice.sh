#!/bin/sh
# Lightning: self.log("loss", loss) in training_step, with accumulate_grad_batches=4.
#
# Expected: a step's logged loss is that of the step, the mean of its four batches.
# Happens:  it is that of the fourth batch alone; the other three are in no logger.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6 lightning==2.6.6 tensorboard==2.21.0
"$python" - 2>"$folder/said" <<'END'
import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

class Memory(Logger):
    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics["loss"])

    def log_hyperparams(self, *args, **kwargs):
        pass

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, index):
        loss = (self.weight * batch).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

logger = Memory()
loader = DataLoader([torch.full((1,), float(number)) for number in range(8)], batch_size=None)
quiet = dict(enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", accumulate_grad_batches=4, log_every_n_steps=1, logger=logger, **quiet)
trainer.fit(Module(), loader)
print("losses of the batches: 0 to 7; logged for the two steps:", logger.rows, "(their means are 1.5 and 5.5)")
assert logger.rows == [3.0, 7.0]
END
