#!/bin/sh
# Transformers: two texts packed into one row, told apart by position_ids that begin again.
#
# Expected: the second text does not see the first, in training and evaluation alike.
# Happens:  only where use_cache=False is passed. Otherwise, in training mode too, the model makes a cache for itself,
#           takes the row for one text, and the second text attends to all of the first.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6 transformers==5.24.0
"$python" - <<'END'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
model = LlamaForCausalLM(LlamaConfig(vocab_size=97, initializer_range=0.2, **shape))
first, second = torch.randint(97, (1, 9)), torch.randint(97, (1, 7))
packed = torch.cat([first, second], 1)
places = torch.cat([torch.arange(9), torch.arange(7)])[None]
for mode in (True, False):
    model.train(mode)
    with torch.no_grad():
        alone = model(second).logits
        with_cache = model(packed, position_ids=places).logits[:, 9:]
        without = model(packed, position_ids=places, use_cache=False).logits[:, 9:]
    print(f"{'training' if mode else 'evaluation'}: the second text's logits are off by "
          f"{(with_cache - alone).abs().max():.3f}; with use_cache=False by {(without - alone).abs().max():.1e}")
    assert (with_cache - alone).abs().max() > 0.1 and (without - alone).abs().max() < 1e-4
END
