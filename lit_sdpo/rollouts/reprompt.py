"""What the teacher reads: the question with a verified sibling's completion, and feedback, in its context."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from lit_sdpo.data.task import Row, Task
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
Demonstration = Literal["sibling", "column", "sibling_then_column", "first", "random"]
#: What a context tells the teacher: a demonstration from here or there, else feedback, else nothing.
ContextSource = Literal["sibling", "column", "feedback", "none"]

#: The column that is a row's reference answer.
REFERENCE = "reference"


@dataclass
class Contexts:
    """The teacher's prompts of N rollouts.

    Attributes:
        messages: The chat of each, or ``None`` where there is nothing to tell the teacher.
        demonstrations: Index of the rollout that each was shown.
        uses_feedback: Whether each was shown its feedback.
        sources: Where what each was told comes from.
        truncated: How many had a demonstration that was shortened or dropped for the budget.
    """

    messages: list[list[Message] | None]
    demonstrations: list[int | None]
    uses_feedback: list[bool]
    sources: list[ContextSource]
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
        demonstration: What is shown: a verified ``sibling``; the text that the row has in a ``column`` of the data; or
            that text where no sibling can be shown, ``sibling_then_column``. A column gives the teacher what the
            paper's SDPO never sees; the student never sees it. (``first`` and ``random`` are earlier names of
            ``sibling`` with that ``choice``.)
        choice: The ``first`` verified sibling, as in the released code, or a ``random`` one.
        column: Name of the column, such as ``hint``, ``solution`` or ``feedback``: a field of the rows' ``extra``, or
            ``reference``, the reference answer.
        column_template: What stands for ``{solution}`` where the column is shown; holds ``{solution}``. ``None`` takes
            ``solution_template``, which calls it a correct solution.
        success_threshold: Smallest score of a success, that is of a demonstration: the verifier's own, as in validation
            accuracy, never the weighted sum of the rewards.
        allow_truncated: Completions that were cut off may be demonstrations.
        allow_own: A successful completion may be its own demonstration; the teacher then knows what is coming.
        dataset_demonstrations: Short for ``sibling_then_column`` with the column ``reference``.
        use_feedback: Show what the verifier said of the rollout (the paper: no).
        feedback_only_without_solution: Feedback only takes the place of a missing demonstration.
        max_context_tokens: Longest teacher prompt. A longer one loses the beginning of its demonstration, then of its
            feedback; the question and the closing instruction are never cut. Where they alone are too long, the rollout
            has no teacher. ``None`` sets no limit.

    Raises:
        UserError: A placeholder is missing, the budget is not positive, or the column is missing or not used.
    """

    template: str = "{prompt}{solution}{feedback}\n\nCorrectly solve the original question."
    solution_template: str = "\n\nCorrect solution:\n\n{solution}"
    feedback_template: str = "\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n{feedback}"
    thinking: Literal["strip", "keep"] = "strip"
    thinking_pattern: str | None = None
    demonstration: Demonstration = "sibling"
    choice: Literal["first", "random"] = "first"
    column: str | None = None
    column_template: str | None = None
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
            **({} if self.column_template is None else {"column_template": ["{solution}"]}),
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
        self._check_column()
        check_number("success_threshold", self.success_threshold, above=0)
        check_integer("max_context_tokens", self.max_context_tokens, at_least=1, optional=True)

    def _check_column(self) -> None:
        if self.demonstration in ("first", "random"):
            object.__setattr__(self, "choice", self.demonstration)
            object.__setattr__(self, "demonstration", "sibling")
        if self.dataset_demonstrations and self.demonstration == "sibling" and self.column in (None, REFERENCE):
            object.__setattr__(self, "demonstration", "sibling_then_column")
            object.__setattr__(self, "column", REFERENCE)
        elif self.dataset_demonstrations and (self.demonstration, self.column) != ("sibling_then_column", REFERENCE):
            raise UserError(
                "dataset_demonstrations says the same otherwise",
                where="reprompt.demonstration",
                fix="leave dataset_demonstrations out",
            )
        if self.demonstration == "sibling":
            for name in ("column", "column_template"):
                if getattr(self, name) is not None:
                    fix = "set demonstration to column or sibling_then_column, or leave it out"
                    raise UserError("no column is shown", where=f"reprompt.{name}", fix=fix)
        elif not self.column:
            raise UserError(
                f"demonstration {self.demonstration!r} needs the name of a column",
                where="reprompt.column",
                fix="give that of a field of the rows' extra, or reference",
            )

    def check_rows(self, task: Task) -> None:
        """Whether a task has the column, before the first step.

        Raises:
            UserError: Not one training row has a text in it.
        """
        if self.column is None or any(self.column_text(row) for row in task.rows("train")):
            return
        found = sorted(
            {key for row in task.rows("train") for key, value in row.extra.items() if isinstance(value, str)}
        )
        told = ", ".join([*found, *([REFERENCE] if any(row.reference for row in task.rows("train")) else [])])
        raise UserError(
            f"no training row of the task {task.name!r} has a text in the column {self.column!r}",
            where="reprompt.column",
            fix=f"use one of: {told}" if told else "give rows with such a field in extra",
        )

    def column_text(self, row: Row) -> str | None:
        """What a row's column says; ``None`` where it is empty.

        Raises:
            UserError: It is no text.
        """
        if self.column is None:
            return None
        found = row.reference if self.column == REFERENCE else row.extra.get(self.column)
        if found is not None and not isinstance(found, str):
            text = f"the column {self.column!r} of row {row.id!r} is no text: {str(found)[:80]!r}"
            raise UserError(text, where="reprompt.column", fix="give a column of texts")
        return found if found and found.strip() else None

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
        siblings = self._siblings(rollouts, texts)
        columns = [
            None if choice is not None else self._column_of(rollouts.rows[n // rollouts.num_generations], text)
            for n, (choice, text) in enumerate(zip(siblings, rollouts.texts, strict=True))
        ]
        feedback = [verdict.feedback if self.use_feedback else None for verdict in rollouts.verdicts]
        shown = uses_feedback(
            feedback,
            [choice is not None or column is not None for choice, column in zip(siblings, columns, strict=True)],
            only_without_demonstration=self.feedback_only_without_solution,
        )
        of_column = self if self.column_template is None else replace(self, solution_template=self.column_template)
        result = Contexts([], [], [], [], 0)
        fits: dict[tuple[int, bool, str | None, str | None], tuple[str | None, str | None]] = {}
        for n, (choice, column) in enumerate(zip(siblings, columns, strict=True)):
            number = n // rollouts.num_generations
            prompt = rollouts.rows[number].messages
            demonstration = column if choice is None else texts[choice]
            remark = feedback[n] if shown[n] else None
            maker = self if column is None else of_column
            # The members of a group mostly share one context.
            key = (number, column is None, demonstration, remark)
            if key not in fits:
                fits[key] = maker._fit(prompt, demonstration, remark, tokenizer, chat_template_options)
            fitted = fits[key]
            result.truncated += fitted[0] != demonstration
            known = fitted != (None, None)
            result.messages.append(maker.messages(prompt, *fitted) if known else None)
            result.demonstrations.append(choice if fitted[0] is not None else None)
            result.uses_feedback.append(fitted[1] is not None)
            result.sources.append(_source(fitted, from_column=column is not None))
        return result

    def _siblings(self, rollouts: Rollouts, texts: Sequence[str]) -> list[int | None]:
        """Index of the rollout that each is shown."""
        if self.demonstration == "column":
            return [None] * len(rollouts)
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
        return choose_demonstrations(allowed, self.choice, rollouts.texts)

    def _column_of(self, row: Row, completion: str) -> str | None:
        """The text of a row's column, unless the completion says the very same: its teacher must not know it."""
        text = self.column_text(row)
        same = text is not None and text.strip() in (completion.strip(), strip_thinking(completion).strip())
        return None if same and not self.allow_own else text

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


def _source(shown: tuple[str | None, str | None], *, from_column: bool) -> ContextSource:
    """Where what a teacher is told comes from, by demonstration and feedback."""
    if shown[0] is not None:
        return "column" if from_column else "sibling"
    return "none" if shown[1] is None else "feedback"


def _without_beginning(text: str, tokens: int, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The text less its first tokens; a solution's answer stands at its end."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    rest = str(tokenizer.decode(ids[tokens:])).lstrip("\ufffd")
    return rest if rest.strip() and len(rest) < len(text) else None


def _fill(template: str, **values: str) -> str:
    """Fill named placeholders in one pass; every other brace is text."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)
