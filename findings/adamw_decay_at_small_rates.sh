#!/bin/sh
# AdamW's weight decay at the learning rates of reinforcement learning, in float32.
#
# Expected: with rate 1e-6 and weight decay 0.01 a weight shrinks by 1e-8 of itself a step, so by 1e-3 in 100,000.
# Happens:  it does not move at all: the factor 1 - rate x decay is rounded to float32 before it is applied, and all that
#           is below 2^-25 (3e-8) rounds to exactly 1. Ten times the decay is some 7 % stronger than asked for.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6
"$python" - <<'END'
import torch

def shrunk(decay, steps=1000, **kind):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.rand(1000) + 0.5)
    before = weight.detach().clone()
    optimizer = torch.optim.AdamW([weight], lr=1e-6, weight_decay=decay, **kind)
    for _ in range(steps):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    return (1 - weight.detach().double() / before).mean().item()

for kind in ({"foreach": False}, {"foreach": True}, {"fused": True}):
    print(f"decay 0.01, {kind}: shrunk by {shrunk(0.01, **kind):.2e} in 1000 steps, asked for 1.00e-05")
    assert shrunk(0.01, **kind) == 0
stronger = shrunk(0.1, foreach=True)
print(f"decay 0.1: shrunk by {stronger:.3e}, asked for 1.000e-04")
assert stronger > 1.05e-4
END
