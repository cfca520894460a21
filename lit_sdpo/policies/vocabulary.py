"""Whether two tokenizers mean the same by every token."""

from __future__ import annotations

from typing import NamedTuple

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lit_sdpo.policies.gguf import gguf_tokenizer, is_gguf


class Difference(NamedTuple):
    """A token that two tokenizers do not share.

    Attributes:
        id: Its id.
        own: What it is for the first.
        other: What it is for the second; ``None`` where that has no such id.
    """

    id: int
    own: str
    other: str | None


def first_difference(own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> Difference | None:
    """The first token of a vocabulary that is another one, or none, in a second; further ones there do not matter.

    Args:
        own: Writes the tokens.
        other: Has to read them.

    Returns:
        ``None`` where each means the same.
    """
    theirs = {number: token for token, number in other.get_vocab().items()}
    for token, number in sorted(own.get_vocab().items(), key=lambda entry: entry[1]):
        if theirs.get(number) != token:
            return Difference(number, token, theirs.get(number))
    return None


def tokenizer_beside(source: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a model; ``None`` where its folder has none.

    Args:
        source: A resolved model: folder, Hub name or GGUF file.
    """
    if is_gguf(source):
        return gguf_tokenizer(source)
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None
    return found if found.encode("a", add_special_tokens=False) else None  # without its files an empty one is made
