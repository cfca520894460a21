"""Chat templates: messages as token ids, and whether a template reads what it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import meta
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from lit_sdpo.errors import UserError, explained

#: A prompt: messages with ``role`` and ``content``, perhaps with ``tool_calls``, ``name`` and ``tool_call_id``.
Chat = Sequence[Mapping[str, Any]]
#: What a template is always given.
_GIVEN = ("messages", "add_generation_prompt")
#: Arguments of ``apply_chat_template`` that are about its result and not about the template.
_RESERVED = (
    "conversation",
    "chat_template",
    "continue_final_message",
    "max_length",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "sanitize_control_tokens",
    "tokenize",
    "tokenizer_kwargs",
    "truncation",
)
WHERE = "model.chat_template_options"
#: Put behind a message to see whether the prompt changes.
_PROBE = " (and 1 more)"


def render(tokenizer: PreTrainedTokenizerBase, messages: Chat, options: Mapping[str, Any] | None = None) -> list[int]:
    """Token ids of a chat prompt, up to where the model's answer begins.

    Args:
        tokenizer: With a chat template.
        messages: The chat so far; the last turn is the user's.
        options: Further arguments of the template, such as ``enable_thinking``.

    Raises:
        UserError: The template cannot render it.
    """
    return render_all(tokenizer, [messages], options)[0]


def render_all(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], options: Mapping[str, Any] | None = None
) -> list[list[int]]:
    """The same for many prompts, in half the time."""
    if not chats:
        return []
    plain = [[dict(message) for message in chat] for chat in chats]
    with explained("the chat template cannot write a prompt", where="model", fix="mend the template, or the messages"):
        ids: Any = tokenizer.apply_chat_template(
            plain, add_generation_prompt=True, tokenize=True, return_dict=False, **(options or {})
        )
    return ids


def render_text(tokenizer: PreTrainedTokenizerBase, messages: Chat, options: Mapping[str, Any] | None = None) -> str:
    """A chat prompt as text, up to where the model's answer begins.

    Args:
        tokenizer: With a chat template.
        messages: The chat so far; the last turn is the user's.
        options: Further arguments of the template.

    Raises:
        UserError: The template cannot render it.
    """
    plain = [dict(message) for message in messages]
    with explained("the chat template cannot write a prompt", where="model", fix="mend the template, or the messages"):
        written: Any = tokenizer.apply_chat_template(
            plain, add_generation_prompt=True, tokenize=False, **(options or {})
        )
    return str(written)


def check_template(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None = None) -> None:
    """Whether a template reads messages at all, and every option that it is given.

    Args:
        tokenizer: With a chat template.
        options: Further arguments of the template.

    Raises:
        UserError: It does not, or it is no template.
    """
    some: Any = tokenizer
    with explained("the chat template is not valid", where="model", fix="mend chat_template.jinja"):
        template = some.get_chat_template(tools=(options or {}).get("tools"))
        environment = _compile_jinja_template(template).environment
        read = meta.find_undeclared_variables(environment.parse(template))
    if "messages" not in read:
        raise UserError("the chat template leaves the messages out", where="model", fix="mend chat_template.jinja")
    known = sorted(name for name in read - {*_GIVEN, *_RESERVED, *environment.globals} if not name.endswith("_token"))
    for name in options or {}:
        if name in _RESERVED or name in _GIVEN:
            raise UserError("this is not the template's to decide", where=f"{WHERE}.{name}", fix="leave it out")
        if name not in read:
            raise UserError(
                f"the chat template has no option {name!r}",
                where=WHERE,
                fix=f"use some of: {', '.join(known)}" if known else "leave it out: the template has no options",
            )


def left_out(
    tokenizer: PreTrainedTokenizerBase, messages: Chat, options: Mapping[str, Any] | None = None
) -> str | None:
    """What of a prompt the template leaves out, in words; ``None`` where everything counts.

    A message counts when another one in its place gives another prompt.

    Args:
        tokenizer: With a chat template.
        messages: A prompt.
        options: Further arguments of the template.
    """
    plain = [dict(message) for message in messages]
    variants: dict[str, list[dict[str, Any]]] = {}
    for index, message in enumerate(plain):
        words = f"message {index + 1} (role {message['role']})"
        changed = {**message, "content": f"{message['content']}{_PROBE}"}
        variants[words] = [*plain[:index], changed, *plain[index + 1 :]]
        if message.get("tool_calls"):
            without = {key: value for key, value in message.items() if key != "tool_calls"}
            variants[f"the tool calls of {words}"] = [*plain[:index], without, *plain[index + 1 :]]
    own = render(tokenizer, plain, options)
    for words, other in variants.items():
        try:
            if render(tokenizer, other, options) == own:
                return words
        except UserError:  # it cannot do without: it counts
            continue
    return None


def rendered(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], options: Mapping[str, Any] | None = None
) -> tuple[list[list[int]], dict[int, str]]:
    """Token ids of those prompts that a template can write, and what it says of the others, by their index.

    Args:
        tokenizer: With a chat template.
        chats: Prompts.
        options: Further arguments of the template.
    """
    try:
        return render_all(tokenizer, chats, options), {}
    except UserError:
        pass
    ids: list[list[int]] = []
    refused: dict[int, str] = {}
    for index, chat in enumerate(chats):
        try:
            ids.append(render(tokenizer, chat, options))
        except UserError as error:
            refused[index] = error.what
    return ids, refused
