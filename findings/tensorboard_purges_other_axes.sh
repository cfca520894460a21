#!/bin/sh
# TensorBoard: a resumed run opens its folder with purge_step=5, where some tags count steps and some count tokens.
#
# Expected: points of the old run from step 5 on give way, tag by tag, where the new run writes them again.
# Happens:  all points above 5 of every tag are dropped, those of tags that count in thousands and that the new run has
#           not written yet among them.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6 lightning==2.6.6 tensorboard==2.21.0
"$python" - 2>"$folder/said" <<'END'
import tempfile, time
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

folder = tempfile.mkdtemp()
with SummaryWriter(folder) as writer:
    for step in range(8):
        writer.add_scalar("loss", 1.0, step)
        writer.add_scalar("accuracy_over_tokens", 0.5, 1000 * step)
time.sleep(1.1)  # files are told apart by the second
with SummaryWriter(folder, purge_step=5) as writer:
    writer.add_scalar("loss", 2.0, 5)
read = EventAccumulator(folder)
read.Reload()
steps = {tag: [point.step for point in read.Scalars(tag)] for tag in ("loss", "accuracy_over_tokens")}
print(steps)
assert steps == {"loss": [0, 1, 2, 3, 4, 5], "accuracy_over_tokens": [0]}
END
