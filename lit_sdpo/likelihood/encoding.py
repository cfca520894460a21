"""From texts to tokens that are scored and those before them, as lm-evaluation-harness 0.4.13 cuts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_sdpo.errors import UserError
from lit_sdpo.policies.chat import Chat, render_text


@dataclass(frozen=True)
class Scored:
    """Tokens whose log-probabilities are asked for.

    Attributes:
        context: What stands before them, never empty.
        target: The tokens.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]

    def __len__(self) -> int:
        """Tokens of both."""
        return len(self.context) + len(self.target)


class Encoder:
    """Cuts texts into tokens.

    Args:
        tokenizer: Has a token of the beginning or of the end.
        template_options: Further arguments of its chat template.

    Raises:
        UserError: The tokenizer has neither token, so a text's first token has nothing before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template_options: Mapping[str, Any] | None = None) -> None:
        self.tokenizer, self.template_options = tokenizer, template_options
        some: Any = tokenizer
        start = some.bos_token_id if some.bos_token_id is not None else some.eos_token_id
        if start is None:
            fix = "give the tokenizer a bos_token"
            raise UserError("the tokenizer has no token of the beginning or end of a text", where="model", fix=fix)
        self._start, self._start_text = int(start), str(tokenizer.decode([start]))
        # What the tokenizer puts before every text; what it may put behind one would part a question from its options.
        bare, full = self._bare("a"), some.encode("a")
        places = range(len(full) - len(bare) + 1)
        self._before: list[int] = full[: next((n for n in places if full[n : n + len(bare)] == bare), 0)]

    def chat(self, messages: Chat) -> str:
        """A chat prompt as text, up to where the model's answer begins."""
        return render_text(self.tokenizer, messages, self.template_options)

    def pair(self, context: str, continuation: str) -> Scored:
        """A continuation after its context.

        White space at the context's end goes to the continuation, both are encoded together, and what is longer than
        the context's own tokens is the continuation: its first token is the one that the tokenizer really writes there.

        Args:
            context: What stands before.
            continuation: What is scored.
        """
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        if not stripped:
            return self._begin(self._bare(continuation))
        before, whole = self._ids(stripped), self._ids(stripped + continuation)
        return Scored(tuple(before), tuple(whole[len(before) :]))

    def windows(self, text: str, length: int) -> list[Scored]:
        """A whole text, of which each token is scored once.

        The token of the beginning is read and never scored. A text of more than ``length`` tokens is cut: each part
        begins behind the last token of the part before; the last part reads as far back as it can.

        Args:
            text: The text.
            length: Tokens that the model reads at once.
        """
        first = self._begin(self._bare(text))
        tokens, most = first.target, length + 1 - len(first.context)
        found, done = [Scored(first.context, tokens[:most])], most
        while done < len(tokens):
            end = min(done + length, len(tokens))
            found.append(Scored(tokens[max(0, end - length - 1) : done], tokens[done:end]))
            done = end
        return found

    def _bare(self, text: str) -> list[int]:
        some: Any = self.tokenizer
        ids: list[int] = some.encode(text, add_special_tokens=False, verbose=False)
        return ids

    def _ids(self, text: str) -> list[int]:
        """With what the tokenizer puts before a text, unless the text says it, as those of chat templates do."""
        return self._bare(text) if text.startswith(self._start_text) else [*self._before, *self._bare(text)]

    def _begin(self, ids: Sequence[int]) -> Scored:
        """Tokens from a text's beginning, which a text may say itself."""
        rest = ids[1:] if list(ids[:1]) == [self._start] else ids
        return Scored(tuple(self._before or [self._start]), tuple(rest))
