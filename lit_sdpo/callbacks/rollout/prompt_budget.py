"""How long the prompts and completions of a run can become, checked before its first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from lit_sdpo.data.task import Row, Split, Task
from lit_sdpo.errors import UserError
from lit_sdpo.policies.chat import left_out, rendered

#: Rows of a generated or very large split that are checked.
CHECKED_ROWS = 20_000
#: Tokenizers without a limit say a number beyond this.
NO_LIMIT = 1 << 40


class PromptBudget:
    """Remembers the longest prompt with its completion, and refuses what is too long.

    Args:
        max_prompt_tokens: Longest allowed prompt.

    Attributes:
        prompt: Tokens of the prompt of the longest row.
        completion: Most tokens of its completion.
        longest: Tokens of the longest prompt and of the longest completion of each split.
    """

    def __init__(self, max_prompt_tokens: int) -> None:
        self.max_prompt_tokens = max_prompt_tokens
        self.prompt = self.completion = 0
        self.longest: dict[Split, tuple[int, int]] = {}
        self._where = ""
        self._turns: set[tuple[tuple[str, bool], ...]] = set()

    def add(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: Mapping[str, Any] | None,
        task: Task,
        split: Split,
        rows: Callable[[], Sequence[Row]],
        completion: Callable[[Row], int],
    ) -> None:
        """Look at some rows of a task.

        Args:
            tokenizer: With a chat template.
            options: Further arguments of the template.
            task: The task; may leave out rows that the template cannot write.
            split: Its split.
            rows: Gives the rows.
            completion: Most tokens of a row's completion.

        Raises:
            UserError: A prompt is longer than allowed, or the template cannot write it or leaves a message of it out.
        """
        where = f"{task.name} ({split})"
        while True:
            found = rows()
            checked = [found[n] for n in range(min(len(found), CHECKED_ROWS))]
            prompts, refused = rendered(tokenizer, [row.messages for row in checked], options)
            if not refused:
                break
            if not task.leave_out(split, [checked[n].id for n in refused]):
                number, what = next(iter(refused.items()))
                fix = "mend the row or the template, or leave such rows out (on_bad_row: skip)"
                raise UserError(what, where=task.place(split, checked[number]), fix=fix)
        self._check_template(tokenizer, options, where, checked)
        for row, ids in zip(checked, prompts, strict=True):
            if len(ids) > self.max_prompt_tokens:
                raise UserError(
                    f"the prompt of row {row.id!r} has {len(ids)} tokens, more than max_prompt_tokens ="
                    f" {self.max_prompt_tokens}",
                    where=where,
                    fix="raise max_prompt_tokens of the RolloutCallback or leave the row out",
                )
            own = completion(row)
            known = self.longest.get(split, (0, 0))
            self.longest[split] = max(known[0], len(ids)), max(known[1], own)
            if len(ids) + own > self.prompt + self.completion:
                self.prompt, self.completion, self._where = len(ids), own, f"{where}, row {row.id!r}"

    def _check_template(
        self,
        tokenizer: PreTrainedTokenizerBase,
        options: Mapping[str, Any] | None,
        where: str,
        rows: Sequence[Row],
    ) -> None:
        """One row of each order of turns stands for all of them."""
        for row in rows:
            turns = tuple((message["role"], "tool_calls" in message) for message in row.messages)
            if turns in self._turns:
                continue
            self._turns.add(turns)
            if lost := left_out(tokenizer, row.messages, options):
                raise UserError(
                    f"the chat template leaves {lost} of row {row.id!r} out",
                    where=where,
                    fix="use a template that writes it, or rows without it",
                )

    def check(self, limit: int | None) -> None:
        """Compare with what a tokenizer or model can read.

        Raises:
            UserError: Prompt and completion exceed it.
        """
        if limit is not None and self.prompt + self.completion > limit and limit < NO_LIMIT:
            raise UserError(
                f"prompt ({self.prompt} tokens) and completion (up to {self.completion}) exceed the {limit} tokens"
                " that the model can read",
                where=self._where,
                fix="lower sampling.max_new_tokens or leave the row out",
            )
