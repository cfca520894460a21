"""How texts are cut: against lm-evaluation-harness's rule, written out here, for tokenizers of all kinds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lit_sdpo.errors import UserError
from lit_sdpo.likelihood.encoding import Encoder
from tests.likelihood.tokenizers import KINDS, TEXTS, byte_level

CHAT = [{"role": "user", "content": "colour of snow?"}]


def start(tokenizer):
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def encoded(tokenizer, text):
    """``tok_encode`` of its ``hf`` model."""
    begun = text.startswith(tokenizer.decode([start(tokenizer)]))
    return tokenizer.encode(text, **({"add_special_tokens": False} if begun else {}))


def encode_pair(tokenizer, context, continuation):
    """Its ``_encode_pair``."""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole, before = encoded(tokenizer, context + continuation), encoded(tokenizer, context)
    return before, whole[len(before) :]


def rolling(tokens, prefix, length):
    """Its ``get_rolling_token_windows`` with a context of one token, then ``make_disjoint_window``."""
    first = min(length, len(tokens))
    windows, predicted = [([prefix, *tokens[: first - 1]], tokens[:first])], first
    while predicted < len(tokens):
        count = min(len(tokens) - predicted, length)
        end = predicted + count
        windows.append((tokens[end - length - 1 : end - 1], tokens[end - count : end]))
        predicted += count
    return [(a[: len(a) - (len(b) - 1)], b) for a, b in windows]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "ended" not in kind])
@pytest.mark.parametrize("context", ["Question: What is snow?\nAnswer:", "the colour of ", "snow\n\n", "<s>is", "na"])
@pytest.mark.parametrize("continuation", [" white", "white", "水", "\nblue", "ïve café"])
def test_pairs_are_cut_as_the_harness_cuts_them(kind, context, continuation):
    tokenizer = KINDS[kind]()
    found = Encoder(tokenizer).pair(context, continuation)
    assert (list(found.context), list(found.target)) == encode_pair(tokenizer, context, continuation)


@pytest.mark.parametrize("kind", KINDS)
def test_context_and_option_are_the_text(kind):
    tokenizer = KINDS[kind]()
    found = Encoder(tokenizer).pair("Question: the colour of snow? ", "white")
    text = tokenizer.decode([*found.context, *found.target], skip_special_tokens=True)
    assert text == "Question: the colour of snow? white"
    assert tokenizer.eos_token_id not in found.target
    assert tokenizer.decode(found.target).strip() == "white"


def test_a_chat_prompt_is_written_by_its_template():
    tokenizer = byte_level()
    encoder = Encoder(tokenizer)
    found = encoder.pair(encoder.chat(CHAT), "white")
    assert tokenizer.decode(found.context) == "<|user|>colour of snow?\n<|assistant|>"
    assert tokenizer.decode(found.target) == "\nwhite"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 2, 5, 7, 1000])
def test_windows_are_the_harnesss(kind, length):
    tokenizer, text = KINDS[kind](), " ".join(TEXTS)
    bare = tokenizer.encode(text, add_special_tokens=False)
    found = Encoder(tokenizer).windows(text, length)
    assert [(list(w.context), list(w.target)) for w in found] == rolling(bare, start(tokenizer), length)
    assert [token for window in found for token in window.target] == bare
    assert all(len(window) <= length + 1 for window in found)


@pytest.mark.parametrize("kind", ["bytes", "bytes, begun"])
def test_the_token_of_the_beginning_is_read_and_never_scored(kind):
    encoder = Encoder(KINDS[kind]())
    assert encoder.windows("<s>is", 9) == encoder.windows("is", 9)
    assert encoder.windows("is", 9)[0].context == (0,)


def test_nothing_to_begin_with():
    with pytest.raises(UserError, match="no token of the beginning"):
        Encoder(SimpleNamespace(bos_token_id=None, eos_token_id=None))
