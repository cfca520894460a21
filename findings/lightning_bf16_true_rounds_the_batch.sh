#!/bin/sh
# Lightning with precision="bf16-true": what training_step is given, and what it makes.
#
# Expected: weights and activations are bfloat16; advantages and old log-probabilities in the batch are what the loader
#           made them, and torch.tensor(257.0) is 257.
# Happens:  every floating-point tensor of the batch is cast to bfloat16, and bfloat16 is the default dtype inside
#           training_step, so that counts above 256 are rounded. bf16-mixed does neither.
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

    def training_step(self, batch, index):
        self.seen = batch["old_logprob"].item(), torch.tensor(float(batch["tokens"])).item()
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
seen = {}
for precision in ("bf16-mixed", "bf16-true"):
    module = Module()
    rows = DataLoader([{"old_logprob": torch.tensor(-3.1234), "tokens": torch.tensor(257)}], batch_size=None)
    pl.Trainer(max_epochs=1, accelerator="cpu", precision=precision, **quiet).fit(module, rows)
    seen[precision] = module.seen
    print(f"{precision}: log-probability -3.1234 arrives as {module.seen[0]:.6f}, torch.tensor(257.0) is {module.seen[1]}")
assert abs(seen["bf16-mixed"][0] + 3.1234) < 1e-6 and seen["bf16-mixed"][1] == 257
assert abs(seen["bf16-true"][0] + 3.1234) > 1e-3 and seen["bf16-true"][1] == 256
END
