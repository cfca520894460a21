#!/bin/sh
# An optimizer whose averages are kept in float32 beside bfloat16 weights, saved and loaded.
#
# Expected: load_state_dict gives back what state_dict has returned.
# Happens:  every floating-point state, whatever its name, is cast to the dtype of its weight: after resuming, float32
#           averages and float32 master copies are bfloat16, without a word.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6
"$python" - <<'END'
import torch

class Averaging(torch.optim.Optimizer):
    """Keeps the average of its gradients and a copy of the weight, both in float32."""

    def __init__(self, weights):
        super().__init__(weights, {})

    def step(self):
        for weight in self.param_groups[0]["params"]:
            state = self.state[weight]
            state.setdefault("average", torch.zeros_like(weight, dtype=torch.float32)).lerp_(weight.grad.float(), 0.1)
            state.setdefault("master", weight.detach().float() + 1e-4)

weight = torch.nn.Parameter(torch.full((4,), 0.3, dtype=torch.bfloat16))
weight.grad = torch.full_like(weight, 0.7)
saving, loading = Averaging([weight]), Averaging([weight])
saving.step()
loading.load_state_dict(saving.state_dict())
for name in ("average", "master"):
    before, after = saving.state[weight][name], loading.state[weight][name]
    print(f"{name}: {before[0]:.7f} ({before.dtype}) saved, {after[0]:.7f} ({after.dtype}) loaded")
    assert before.dtype == torch.float32 and after.dtype == torch.bfloat16 and (before != after).all()
END
