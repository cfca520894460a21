"""Small tokenizers of the kinds that models have, trained on a sentence."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["Question: What is the colour of snow? Answer: white black blue", "naïve café 水 is water", "1 + 1 = 2"]
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level(before=(), behind=(), bos="<s>"):
    """BPE over bytes, as GPT-2, Llama 3 and SmolLM have it; ``before`` and ``behind`` are put around every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": SPECIAL, "initial_alphabet": alphabet, "show_progress": False}
    bpe.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=320, **options))
    return _finished(bpe, before, behind, bos)


def metaspace(before=("<s>",)):
    """Unigrams over words that begin with the mark of a space, as SentencePiece makes them for Llama 2."""
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    letters = sorted({c for text in TEXTS for c in text})
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>", initial_alphabet=letters
    )
    unigram.train_from_iterator(TEXTS * 3, trainer)
    return _finished(unigram, before, (), "<s>")


def _finished(tokenizer, before, behind, bos):
    if before or behind:
        template = " ".join([*before, "$A", *behind])
        known = [(token, tokenizer.token_to_id(token)) for token in {*before, *behind}]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=known)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token="</s>")
    made.chat_template = TEMPLATE
    return made


KINDS = {
    "bytes": byte_level,
    "bytes, begun": lambda: byte_level(["<s>"]),
    "bytes, begun and ended": lambda: byte_level(["<s>"], ["</s>"]),
    "bytes, no token of the beginning": lambda: byte_level(bos=None),
    "metaspace": metaspace,
}
