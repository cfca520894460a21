#!/bin/sh
# Lightning: a run of 8 batches, saved after the fourth and resumed from there.
#
# Expected: it goes on with the fifth batch.
# Happens:  it takes four more, as it should, but the first four again: the count of batches is resumed, the loader is
#           not. Half of the epoch's data is seen twice and half never, without a warning.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6 lightning==2.6.6 tensorboard==2.21.0
"$python" - 2>"$folder/said" <<'END'
import os, tempfile
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(int(batch.item()))
        return (self.weight * batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Save(pl.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if index == 3:
            trainer.save_checkpoint(path)

path = os.path.join(tempfile.mkdtemp(), "half.ckpt")
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)

def fit(callbacks=(), checkpoint=None):
    module = Module()
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=list(callbacks), **quiet)
    trainer.fit(module, DataLoader(torch.arange(8.0)[:, None], batch_size=1), ckpt_path=checkpoint, weights_only=False)
    return module.seen, trainer.global_step

whole, _ = fit([Save()])
resumed, steps = fit(checkpoint=path)
print(f"a whole run sees {whole}; resumed after four it sees {resumed} and ends at step {steps}")
assert whole == list(range(8)) and resumed == [0, 1, 2, 3] and steps == 8
END
