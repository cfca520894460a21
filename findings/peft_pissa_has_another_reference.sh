#!/bin/sh
# PEFT: the model without its adapter as the reference of a KL penalty, with init_lora_weights="pissa" or "olora".
#
# Expected: inside disable_adapter() the model is the one that the adapter was put on.
# Happens:  these initialisations take the adapter's first value out of the base weights, so the model without it is
#           neither the base nor any model that was trained; nothing says so (for bias="all" there is a warning).
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6 transformers==5.24.0 peft==0.21.2
"$python" - 2>"$folder/said" <<'END'
import torch, warnings
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

def base():
    torch.manual_seed(0)
    shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    return LlamaForCausalLM(LlamaConfig(vocab_size=97, initializer_range=0.2, **shape)).eval()

def predictions(model):
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits.log_softmax(-1)

before = predictions(base())
found = {}
for start in (True, "pissa", "olora"):
    model = get_peft_model(base(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=start)).eval()
    with warnings.catch_warnings(record=True) as said, model.disable_adapter():
        warnings.simplefilter("always")
        without = predictions(model)
    with_adapter = predictions(model)
    kl = (before.exp() * (before - without)).sum(-1).mean().item()
    found[start] = kl
    print(f"init {start}: with adapter off by {(with_adapter - before).abs().max():.1e}, without it KL(base || it) {kl:.3f},"
          f" warnings {sum('disabling' in str(w.message) for w in said)}")
assert found[True] < 1e-6 and found["pissa"] > 0.01 and found["olora"] > 0.01
END
