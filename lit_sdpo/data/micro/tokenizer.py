"""The tokenizer of the micro world: small, trained on the world's own text, and able to spell any text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lit_sdpo.data.micro.warmstart import WarmStartTask

USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"

#: Longest context, in tokens, of the tokenizer and of the models made for it.
MAX_LENGTH = 1024

CHAT_TEMPLATE = (
    "{%- set frame = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- set frame.system = message['content'] + '\\n' -%}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '<|user|>' + frame.system + message['content'] -}}"
    "{%- set frame.system = '' -%}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' + message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def _texts(count: int) -> Iterator[str]:
    for row in islice(WarmStartTask().rows("train"), count):
        yield row.messages[0]["content"]
        yield row.reference or ""


def _byte_symbols() -> tuple[list[str], list[str]]:
    """The 256 symbols that stand for bytes: those of printable ASCII and the line feed, and the others."""
    symbol = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    ascii_symbols = [symbol(chr(code))[0][0] for code in (10, *range(32, 127))]
    return ascii_symbols, sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(ascii_symbols))


def build_tokenizer(entries: int = 640, examples: int = 6_000) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same one every time.

    Byte-pair encoding with ``entries`` entries over printable ASCII, digits one by one. The symbols of all other
    bytes are appended afterwards: inside the budget they would cost the world's words their merges.

    Args:
        entries: Vocabulary size before the other bytes are appended.
        examples: Warm-start examples to train on.
    """
    ascii_symbols, others = _byte_symbols()
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    specials = [USER, ASSISTANT, END, PAD]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=entries, special_tokens=specials, initial_alphabet=ascii_symbols, show_progress=False
    )
    trained.train_from_iterator(_texts(examples), trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = dict(model["vocab"])
    for symbol in others:
        vocabulary[symbol] = len(vocabulary)
    whole = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge) for merge in model["merges"]]))
    whole.pre_tokenizer, whole.decoder = split, decoders.ByteLevel()
    whole.add_special_tokens(specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
