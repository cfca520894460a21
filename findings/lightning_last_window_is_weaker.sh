#!/bin/sh
# Lightning with accumulate_grad_batches=4 and an epoch of 6 batches.
#
# Expected: the second step averages over the two batches that it has.
# Happens:  their loss is divided by 4 all the same: the step at each epoch's end has half the gradient.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6 lightning==2.6.6 tensorboard==2.21.0
"$python" - 2>"$folder/said" <<'END'
import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.gradients = []

    def training_step(self, batch, index):
        return (self.weight * batch).mean()  # its gradient is 1 for every batch here

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(self.weight.grad.item())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
module = Module()
loader = DataLoader([torch.ones(1)] * 6, batch_size=None)
pl.Trainer(max_epochs=1, accelerator="cpu", accumulate_grad_batches=4, **quiet).fit(module, loader)
print("gradients of the two steps, where every batch's own is 1:", module.gradients)
assert module.gradients == [1.0, 0.5]
END
