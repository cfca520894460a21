"""From sampled tokens to the text that verifiers, teachers and readers see."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from lit_sdpo.rewards.thinking import TAGS, WORDS, Completion, Tags, left_open

#: So many tokens of a prompt hold all that the chat template writes behind the question, and the question's end.
_TAIL = 512


def completion_texts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    chats: Sequence[Sequence[Mapping[str, Any]]],
    tokens: Sequence[Sequence[int]],
    finished: Sequence[bool],
    *,
    end_ids: Collection[int] = (),
    template_options: Mapping[str, Any] | None = None,
) -> list[Completion]:
    """The texts of N completions to P prompts, each with what is known of its thinking.

    Tokens that only end, pad or frame a turn are left out. Every other special token is text: tags of thinking and of
    answers are special tokens in some tokenizers.

    Args:
        tokenizer: Decodes.
        prompts: Token ids of the P prompts.
        chats: The messages of the P prompts; empty where a prompt is no chat.
        tokens: Token ids of the N completions, those of a prompt in a row.
        finished: Whether each completion ended by itself.
        end_ids: Tokens that end a completion.
        template_options: Further arguments of the chat template.
    """
    if not prompts:
        return []
    dropped = turn_tokens(tokenizer, end_ids, template_options)
    texts = tokenizer.batch_decode([[n for n in row if n not in dropped] for row in tokens], skip_special_tokens=False)
    ends = tokenizer.batch_decode([list(row[-_TAIL:]) for row in prompts], skip_special_tokens=False)
    opened = [left_open(end, _question(chat), (*TAGS, *WORDS)) for end, chat in zip(ends, chats, strict=True)]
    tags = _tags(tokenizer)
    each = len(tokens) // len(prompts)
    return [
        Completion(text, opened=opened[n // each], tags=tags, finished=bool(done))
        for n, (text, done) in enumerate(zip(texts, finished, strict=True))
    ]


def opened_by_template(
    tokenizer: PreTrainedTokenizerBase, template_options: Mapping[str, Any] | None = None
) -> Tags | None:
    """The tags of the block that the chat template opens at the end of a prompt, if it opens one."""
    chat = [{"role": "user", "content": "lorem"}]
    text: Any = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=False, **(template_options or {})
    )
    return left_open(str(text), "lorem", (*TAGS, *WORDS))


def turn_tokens(
    tokenizer: PreTrainedTokenizerBase,
    end_ids: Collection[int] = (),
    template_options: Mapping[str, Any] | None = None,
) -> set[int]:
    """Tokens that only end, pad or frame a turn, and are no part of what is said in it.

    Args:
        tokenizer: With or without a chat template.
        end_ids: Tokens that end a completion.
        template_options: Further arguments of the chat template.
    """
    added = tokenizer.added_tokens_decoder
    roles = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)
    frame = _frame(tokenizer, template_options)
    # Words and closing tags have been said even where they end the turn, and so has a tag that the template writes.
    said = "\n".join(tag for pair in (*_tags(tokenizer), *WORDS, ("<answer>", "</answer>")) for tag in pair)
    return {
        n
        for n, token in added.items()
        if (n in roles or n in end_ids or (token.special and token.content in frame)) and token.content not in said
    }


def _tags(tokenizer: PreTrainedTokenizerBase) -> tuple[Tags, ...]:
    """Tags that count in the text; a tokenizer that writes one as a token is that of a model that thinks in it."""
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return (*TAGS, *(pair for pair in WORDS if pair.opening in tokens))


def _question(chat: Sequence[Mapping[str, Any]]) -> str:
    """The end of what the last turn says."""
    content = chat[-1].get("content") if chat else None
    return content.strip()[-100:] if isinstance(content, str) else ""


def _frame(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None) -> str:
    """What the chat template writes between and behind turns, system messages aside; nothing without a template."""
    if not tokenizer.chat_template:
        return ""
    first = {"role": "user", "content": "lorem"}
    chats = [[first, {"role": "assistant", "content": "ipsum"}, {"role": "user", "content": "dolor"}], [first]]
    for chat in chats:
        try:
            text: Any = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, tokenize=False, **(options or {})
            )
        except TemplateError:  # Some templates refuse an earlier answer without its thinking.
            continue
        return str(text).partition("lorem")[2]
    return ""
