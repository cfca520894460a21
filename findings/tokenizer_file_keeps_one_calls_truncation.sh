#!/bin/sh
# Transformers' tokenizers: a call with truncation and padding, and the files saved later.
#
# Expected: truncation=True and padding=True are about that one call.
# Happens:  they stay in the tokenizer behind it, and save_pretrained writes them to tokenizer.json: whoever reads that
#           file with the tokenizers library gets every text cut at that length, without a word.
. "$(dirname "$0")/lib.sh"
environment transformers==5.24.0 tokenizers==0.23.3
"$python" - <<'END'
import json, os, tempfile
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1, "b": 2, "c": 3, "[UNK]": 4}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
tokenizer(["a b c a b c", "a"], truncation=True, max_length=4, padding=True)  # one batch of a loader
folder = tempfile.mkdtemp()
tokenizer.save_pretrained(folder)
file = os.path.join(folder, "tokenizer.json")
saved = json.load(open(file))
length = len(Tokenizer.from_file(file).encode("a b c a b c").ids)
print("in tokenizer.json: truncation", saved["truncation"], "padding", bool(saved["padding"]))
print("a text of 6 tokens, encoded with that file:", length, "tokens")
assert saved["truncation"]["max_length"] == 4 and saved["padding"] and length == 4
END
