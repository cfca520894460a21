#!/bin/sh
# PEFT: an adapter merged into bfloat16 weights to sample from them, and taken out again to train on.
#
# Expected: unmerge_adapter() gives back the weights, up to one rounding.
# Happens:  each round rounds twice and the errors add up: the frozen base drifts, and with it every reference that is
#           "the model without its adapter". After 100 rounds it has moved by more than 1 % of its norm.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6 transformers==5.24.0 peft==0.21.2
"$python" - 2>"$folder/said" <<'END'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
model = get_peft_model(LlamaForCausalLM(LlamaConfig(vocab_size=97, **shape)).bfloat16(), LoraConfig(r=4, target_modules=["q_proj"]))
layer = model.base_model.model.model.layers[0].self_attn.q_proj
with torch.no_grad():
    layer.lora_B["default"].weight.normal_(0, 0.02)
before = layer.base_layer.weight.detach().clone()
moved = {}
for count in range(1, 101):
    model.merge_adapter()
    model.unmerge_adapter()
    moved[count] = ((layer.base_layer.weight - before).float().norm() / before.float().norm()).item()
print("the frozen weights have moved, relative to their norm:", {count: f"{moved[count]:.4f}" for count in (1, 10, 100)})
assert moved[100] > 0.01 and moved[100] > 5 * moved[1]
END
