"""What the teacher reads: the question with a verified sibling's completion, and feedback, in its context."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from lit_sdpo.data.task import Row
from lit_sdpo.errors import UserError
from lit_sdpo.policies.load import render
from lit_sdpo.ranges import check_integer, check_number
from lit_sdpo.rollouts.demonstrations import (
    allowed_demonstrations,
    choose_demonstrations,
    strip_thinking,
    uses_feedback,
)
from lit_sdpo.rollouts.types import Rollouts

Message = dict[str, str]


@dataclass
class Contexts:
    """The teacher's prompts of N rollouts.

    Attributes:
        messages: The chat of each, or ``None`` where there is nothing to tell the teacher.
        demonstrations: Index of the rollout that each was shown.
        uses_feedback: Whether each was shown its feedback.
        truncated: How many had a demonstration that was shortened or dropped for the budget.
    """

    messages: list[list[Message] | None]
    demonstrations: list[int | None]
    uses_feedback: list[bool]
    truncated: int


@dataclass(frozen=True, kw_only=True)
class Reprompt:
    r"""How the teacher's context is built (arXiv:2601.20802; arXiv:2607.01763, appendix C.4).

    The last user turn is replaced by ``template``; system messages and earlier turns stay. Placeholders are filled in
    one pass, so braces in a question, a demonstration or a template (``\boxed{}``) are safe.

    Attributes:
        template: The user turn, from ``{prompt}`` (the original one), ``{solution}`` and ``{feedback}``.
        solution_template: What stands for ``{solution}`` where there is a demonstration; holds ``{solution}``.
        feedback_template: What stands for ``{feedback}`` where it is shown; holds ``{feedback}``.
        thinking: ``strip`` the reasoning from demonstrations or ``keep`` it (the paper's CoT variants).
        thinking_pattern: What ``strip`` removes, as a regular expression whose dot matches line ends too; ``None``
            stands for ``<think>`` blocks.
        demonstration: The ``first`` verified sibling, as in the released code, or a ``random`` one.
        success_threshold: Smallest score of a success, that is of a demonstration: the verifier's own, as in validation
            accuracy, never the weighted sum of the rewards.
        allow_truncated: Completions that were cut off may be demonstrations.
        allow_own: A successful completion may be its own demonstration; the teacher then knows what is coming.
        dataset_demonstrations: Where no sibling can be shown, show the data set's reference answer, if it has one. This
            gives the teacher what the paper's SDPO never sees.
        use_feedback: Show what the verifier said of the rollout (the paper: no).
        feedback_only_without_solution: Feedback only takes the place of a missing demonstration.
        max_context_tokens: Longest teacher prompt. A longer one loses the beginning of its demonstration, then of its
            feedback; the question and the closing instruction are never cut. Where they alone are too long, the rollout
            has no teacher. ``None`` sets no limit.

    Raises:
        UserError: A placeholder is missing or the budget is not positive.
    """

    template: str = "{prompt}{solution}{feedback}\n\nCorrectly solve the original question."
    solution_template: str = "\n\nCorrect solution:\n\n{solution}"
    feedback_template: str = "\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}"
    thinking: Literal["strip", "keep"] = "strip"
    thinking_pattern: str | None = None
    demonstration: Literal["first", "random"] = "first"
    success_threshold: float = 1.0
    allow_truncated: bool = False
    allow_own: bool = False
    dataset_demonstrations: bool = False
    use_feedback: bool = False
    feedback_only_without_solution: bool = True
    max_context_tokens: int | None = 10_240

    def __post_init__(self) -> None:
        """Check the placeholders and the budget."""
        needed = {
            "template": ["{prompt}", "{solution}", *(["{feedback}"] if self.use_feedback else [])],
            "solution_template": ["{solution}"],
            "feedback_template": ["{feedback}"],
        }
        for name, placeholders in needed.items():
            for placeholder in placeholders:
                if placeholder not in getattr(self, name):
                    raise UserError(f"{placeholder} is missing", where=f"reprompt.{name}", fix=f"add {placeholder}")
        if self.thinking_pattern is not None:
            try:
                re.compile(self.thinking_pattern)
            except re.error as error:
                raise UserError(
                    f"{self.thinking_pattern!r} is no regular expression: {error}",
                    where="reprompt.thinking_pattern",
                    fix="mend it, or give null for <think> blocks",
                ) from error
        check_number("success_threshold", self.success_threshold, above=0)
        check_integer("max_context_tokens", self.max_context_tokens, at_least=1, optional=True)

    def messages(
        self, prompt: Sequence[Mapping[str, str]], demonstration: str | None = None, feedback: str | None = None
    ) -> list[Message]:
        """The teacher's chat for one rollout.

        Args:
            prompt: The student's chat; its last turn is the user's.
            demonstration: Text of the demonstration.
            feedback: Text of the feedback.

        Raises:
            UserError: The prompt does not end with a user turn.

        Example:
            >>> chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]
            >>> [m["role"] for m in Reprompt().messages(chat, "It is {4}.")]
            ['system', 'user']
            >>> print(Reprompt().messages(chat, "It is {4}.")[-1]["content"])
            What is 2 + 2?
            <BLANKLINE>
            Correct solution:
            <BLANKLINE>
            It is {4}.
            <BLANKLINE>
            Correctly solve the original question.
        """
        if not prompt or prompt[-1]["role"] != "user":
            last = prompt[-1]["role"] if prompt else "nothing"
            raise UserError(f"the prompt ends with {last!r}", where="messages", fix="end the prompt with a user turn")
        solution = "" if demonstration is None else _fill(self.solution_template, solution=demonstration)
        remark = "" if feedback is None else _fill(self.feedback_template, feedback=feedback)
        content = _fill(self.template, prompt=prompt[-1]["content"], solution=solution, feedback=remark)
        return [*(dict(message) for message in prompt[:-1]), {**prompt[-1], "content": content}]

    def contexts(
        self,
        rollouts: Rollouts,
        tokenizer: PreTrainedTokenizerBase,
        chat_template_options: Mapping[str, Any] | None = None,
    ) -> Contexts:
        """The teacher's prompts of all rollouts.

        Args:
            rollouts: Scored completions.
            tokenizer: Counts the tokens of the budget.
            chat_template_options: Further arguments of the chat template, as in training.
        """
        texts = rollouts.texts
        if self.thinking == "strip":
            texts = [strip_thinking(text, self.thinking_pattern) for text in texts]
        scores = rollouts.scores
        blank = torch.tensor([not text.strip() for text in texts], device=scores.device)
        allowed = allowed_demonstrations(
            scores.masked_fill(blank, torch.nan),
            rollouts.groups,
            success_threshold=self.success_threshold,
            truncated=~rollouts.completions.finished,
            allow_truncated=self.allow_truncated,
            allow_own=self.allow_own,
            texts=rollouts.texts,
        )
        chosen = choose_demonstrations(allowed, self.demonstration, rollouts.texts)
        feedback = [verdict.feedback if self.use_feedback else None for verdict in rollouts.verdicts]
        shown = uses_feedback(
            feedback,
            [
                c is not None or self._from_data(rollouts.rows[n // rollouts.num_generations]) is not None
                for n, c in enumerate(chosen)
            ],
            only_without_demonstration=self.feedback_only_without_solution,
        )
        result = Contexts([], [], [], 0)
        fits: dict[tuple[int, str | None, str | None], tuple[str | None, str | None]] = {}
        for n, choice in enumerate(chosen):
            number = n // rollouts.num_generations
            prompt = rollouts.rows[number].messages
            demonstration = texts[choice] if choice is not None else self._from_data(rollouts.rows[number])
            remark = feedback[n] if shown[n] else None
            # The members of a group mostly share one context.
            key = (number, demonstration, remark)
            if key not in fits:
                fits[key] = self._fit(prompt, demonstration, remark, tokenizer, chat_template_options)
            fitted = fits[key]
            result.truncated += fitted[0] != demonstration
            known = fitted != (None, None)
            result.messages.append(self.messages(prompt, *fitted) if known else None)
            result.demonstrations.append(choice if fitted[0] is not None else None)
            result.uses_feedback.append(fitted[1] is not None)
        return result

    def _from_data(self, row: Row) -> str | None:
        return row.reference if self.dataset_demonstrations else None

    def _fit(
        self,
        prompt: Sequence[Mapping[str, str]],
        demonstration: str | None,
        feedback: str | None,
        tokenizer: PreTrainedTokenizerBase,
        options: Mapping[str, Any] | None,
    ) -> tuple[str | None, str | None]:
        """Demonstration and feedback, shortened in this order until the prompt fits; ``None`` where nothing is left."""

        def excess(demonstration: str | None, feedback: str | None) -> int:
            if self.max_context_tokens is None or (demonstration is None and feedback is None):
                return 0
            ids = render(tokenizer, self.messages(prompt, demonstration, feedback), options)
            return len(ids) - self.max_context_tokens

        while demonstration is not None and (over := excess(demonstration, feedback)) > 0:
            demonstration = _without_beginning(demonstration, over, tokenizer)
        while feedback is not None and (over := excess(demonstration, feedback)) > 0:
            feedback = _without_beginning(feedback, over, tokenizer)
        return demonstration, feedback


def _without_beginning(text: str, tokens: int, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The text less its first tokens; a solution's answer stands at its end."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    rest = str(tokenizer.decode(ids[tokens:])).lstrip("\ufffd")
    return rest if rest.strip() and len(rest) < len(text) else None


def _fill(template: str, **values: str) -> str:
    """Fill named placeholders in one pass; every other brace is text."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
