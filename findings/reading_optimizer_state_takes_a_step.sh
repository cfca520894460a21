#!/bin/sh
# torch.distributed.checkpoint: the state of an optimizer that has not stepped yet, as a checkpoint at step 0 reads it.
#
# Expected: get_optimizer_state_dict reads.
# Happens:  it takes a step with gradients of zero, so that there is a state to return, and leaves it in the optimizer:
#           AdamW counts it, and corrects the bias of its first real step as that of a second. That step is 26 % shorter.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6
"$python" - <<'END'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

def first_step(read):
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8)
    before = model.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0)
    if read:
        get_optimizer_state_dict(model, optimizer)
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    return (model.weight - before).abs().mean().item(), optimizer.state[model.weight]["step"].item()

(plain, count), (after, counted) = first_step(False), first_step(True)
print(f"first step of rate 1e-3: {plain:.2e} (counted {count:.0f}); after reading the state {after:.2e} ({counted:.0f})")
assert count == 1 and counted == 2 and after < 0.8 * plain
END
