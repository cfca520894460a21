"""What can be asked of a model without generating: which option it prefers, how well it predicts a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, get_args

import torch
from torch import Tensor

from lit_sdpo.data.source import Source, as_sources
from lit_sdpo.data.task import Split, check_name
from lit_sdpo.errors import UserError
from lit_sdpo.functional import multiple_choice_scores, text_likelihood_from_sums
from lit_sdpo.likelihood.encoding import Encoder, Scored
from lit_sdpo.likelihood.rows import ChoiceRow, Entry, Row, TextRow, choice_row, scan, text_row
from lit_sdpo.ranges import check_integer

ChoiceMeasure = Literal["acc", "acc_norm", "acc_bytes"]
TextMeasure = Literal["loss_per_token", "loss_per_byte", "bits_per_byte"]
Files = str | Path | Source | list[str | Source]


class LikelihoodTask(ABC, Generic[Row]):
    """Rows that a model is not asked to answer: it is asked how likely given tokens are.

    A task is evaluated as probes are and never trained on; no verifier runs.

    Args:
        name: Appears in every tag and file.
        validation: File of the rows for every evaluation during training; a ``Source`` says more about it, a list is
            read one after another.
        test: The same for the final test; ``None`` takes those of ``validation``.
        columns: Where fields stand in files that name them otherwise, ``{question: query, answer: meta.gold}``.
        limit: Use the first rows only.
        batch_tokens: Most tokens in one forward pass; ``None``: 4,096 on a CPU, 16,384 elsewhere. Longer rows stand
            alone.

    Raises:
        UserError: An argument is out of range. When rows are asked for: a file is missing, empty or has a bad row.
    """

    #: Whether less of the score is better.
    loss: ClassVar[bool]
    #: Makes a row from its id and fields.
    parse: ClassVar[Callable[[str, Mapping[str, Any]], Any]]

    def __init__(
        self,
        name: str,
        validation: Files,
        test: Files | None = None,
        columns: dict[str, str] | None = None,
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        check_name(name)
        self.name = name
        self.sources: dict[Split, list[Source]] = {
            "validation": [source.completed(columns=columns) for source in as_sources(validation)],
            "test": [source.completed(columns=columns) for source in as_sources(test or validation)],
        }
        self.limit = check_integer("limit", limit, at_least=1, optional=True)
        self.batch_tokens = check_integer("batch_tokens", batch_tokens, at_least=1, optional=True)
        self._rows: dict[Split, tuple[Row, ...]] = {}

    def entries(self, source: Source) -> list[Entry[Row]]:
        """The rows of a source, and what is wrong with those that do not fit."""
        return list(islice(scan(source, type(self).parse), self.limit))

    def rows(self, split: Split) -> Sequence[Row]:
        """The rows of one split in the order of its sources; there are none to train on.

        Raises:
            UserError: A source cannot be read or has no rows, or with file, line and field if a row does not fit.
        """
        if split not in self._rows:
            self._rows[split] = self._read(split)
        return self._rows[split]

    def _read(self, split: Split) -> tuple[Row, ...]:
        found: dict[str, Row] = {}
        for source in self.sources.get(split, []):
            for entry in self.entries(source):
                if entry.problem is not None:
                    raise entry.problem.at(entry.place) from entry.problem
                assert entry.row is not None
                if entry.row.id in found:
                    fix = "give every row an id of its own, or each source a name"
                    raise UserError(f"the id {entry.row.id!r} is that of a row before", where=entry.place, fix=fix)
                found[entry.row.id] = entry.row
            if not found:
                raise UserError(f"{source} has no rows", where=f"task {self.name}", fix="give a file with rows")
        return tuple(found.values())[: self.limit]

    @abstractmethod
    def requests(self, row: Row, encoder: Encoder, length: int) -> list[Scored]:
        """What is asked of the model about a row.

        Args:
            row: The row.
            encoder: Cuts texts into tokens.
            length: Tokens that the model reads at once.

        Raises:
            UserError: The row does not fit the model.
        """

    def wanted(self, row: Row, requests: Sequence[Scored]) -> Sequence[Scored]:
        """Those requests about a row that a good model finds likely; all, unless some are wrong.

        Args:
            row: The row.
            requests: All that is asked about it.
        """
        return requests

    @abstractmethod
    def values(self, logprobs: Sequence[Tensor]) -> list[float]:
        """What is kept of the answers to a row's requests: a few numbers, which all processes exchange.

        Args:
            logprobs: Log-probabilities of each request's tokens.
        """

    @abstractmethod
    def numbers(self, rows: Sequence[Row], values: Sequence[Sequence[float]]) -> dict[str, float]:
        """What is logged; the task's score is ``loss`` or ``accuracy``.

        Args:
            rows: All rows.
            values: Of each.
        """

    @abstractmethod
    def item_scores(self, rows: Sequence[Row], values: Sequence[Sequence[float]]) -> list[float]:
        """Each row's part in the task's score, of which their mean is the score."""

    def refused(self, row: Row, what: str, fix: str) -> UserError:
        """The error that a row does not fit the model."""
        return UserError(f"row {row.id!r}: {what}", where=f"task {self.name}", fix=fix)


class MultipleChoiceLikelihood(LikelihoodTask[ChoiceRow]):
    r"""Multiple choice by the log-probability of each option given the question, as lm-evaluation-harness scores it.

    Rows have ``question`` (text) or ``messages`` (a chat prompt), ``choices`` and ``answer``. Which option is taken:
    see :func:`~lit_sdpo.functional.likelihood.multiple_choice_scores`. ``acc``, ``acc_norm`` and ``acc_bytes`` are all
    logged; ``measure`` is the task's score.

    Args:
        name: Appears in every tag and file.
        validation: File of the rows for every evaluation during training.
        test: The same for the final test; ``None`` takes those of ``validation``.
        prompt: How a question is put, with ``{question}`` in it, such as ``"Question: {question}\nAnswer:"``.
        chat: Put a question as the user's turn of the model's chat template; ``messages`` always are.
        separator: What stands between prompt and option, scored with the option but not counted in its length;
            ``None``: a space behind a text, nothing behind a chat prompt.
        measure: ``acc``, ``acc_norm`` (by characters) or ``acc_bytes``.
        columns: Where fields stand in files that name them otherwise.
        limit: Use the first rows only.
        batch_tokens: Most tokens in one forward pass.

    Raises:
        UserError: An argument is out of range. When rows are asked for: a file is missing, empty or has a bad row.
    """

    loss, parse = False, choice_row

    def __init__(
        self,
        name: str,
        validation: Files,
        test: Files | None = None,
        prompt: str = "{question}",
        chat: bool = False,
        separator: str | None = None,
        measure: ChoiceMeasure = "acc",
        columns: dict[str, str] | None = None,
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(name, validation, test, columns, limit, batch_tokens)
        if "{question}" not in prompt:
            fix = "write {question} where the question belongs"
            raise UserError("the prompt has no place for the question", where=f"task {name}, prompt", fix=fix)
        self.prompt, self.chat, self.separator = prompt, chat, separator
        self.measure = _one_of(measure, ChoiceMeasure, name)

    def requests(self, row: ChoiceRow, encoder: Encoder, length: int) -> list[Scored]:
        """One for each option; their context is the same."""
        context, separator = row.asked, ""
        if isinstance(context, str):
            context = self.prompt.replace("{question}", context)
            if self.chat:
                context = [{"role": "user", "content": context}]
            else:
                separator = " "
        written = context if isinstance(context, str) else encoder.chat(context)
        if self.separator is not None:
            separator = self.separator
        found = [encoder.pair(written, separator + choice) for choice in row.choices]
        for choice, request in zip(row.choices, found, strict=True):
            if not request.target:
                what = f"the option {choice!r} has no token of its own behind the question"
                raise self.refused(row, what, "put a separator before the options")
            if len(request) > length + 1:
                what = f"question and option {choice!r} have {len(request)} tokens, and the model reads {length}"
                raise self.refused(row, what, "leave the row out; a question is never shortened")
        return found

    def wanted(self, row: ChoiceRow, requests: Sequence[Scored]) -> Sequence[Scored]:
        """The right options."""
        return [requests[place] for place in row.gold]

    def values(self, logprobs: Sequence[Tensor]) -> list[float]:
        """Log-probability of each option."""
        return [float(each.double().sum()) for each in logprobs]

    def numbers(self, rows: Sequence[ChoiceRow], values: Sequence[Sequence[float]]) -> dict[str, float]:
        """``accuracy``, the task's score, and the three measures."""
        scores = self._scores(rows, values)
        found = {name: float(scores[name]) for name in get_args(ChoiceMeasure)}
        return {"accuracy": found[self.measure], **found}

    def item_scores(self, rows: Sequence[ChoiceRow], values: Sequence[Sequence[float]]) -> list[float]:
        """1 where the right option is taken, else 0."""
        correct = self._scores(rows, values)[self.measure.replace("acc", "correct")]
        return [float(each) for each in correct]

    def _scores(self, rows: Sequence[ChoiceRow], values: Sequence[Sequence[float]]) -> dict[str, Tensor]:
        return multiple_choice_scores(values, [row.choices for row in rows], [row.gold for row in rows])


class TextLikelihood(LikelihoodTask[TextRow]):
    """Loss on fixed texts, as lm-evaluation-harness measures perplexity: every token of a text is scored once.

    Rows have ``text``, which is read as it is, without a chat template. The score is over all texts together, see
    :func:`~lit_sdpo.functional.likelihood.text_likelihood`; less is better. A text longer than the model's context is
    read in windows.

    Args:
        name: Appears in every tag and file.
        validation: File of the rows for every evaluation during training.
        test: The same for the final test; ``None`` takes those of ``validation``.
        measure: The task's score: ``loss_per_token``, ``loss_per_byte`` (both in nats) or ``bits_per_byte``.
        window: Tokens that are read at once; ``None`` is all that the model can.
        columns: Where fields stand in files that name them otherwise.
        limit: Use the first rows only.
        batch_tokens: Most tokens in one forward pass.

    Raises:
        UserError: An argument is out of range. When rows are asked for: a file is missing, empty or has a bad row.
    """

    loss, parse = True, text_row

    def __init__(
        self,
        name: str,
        validation: Files,
        test: Files | None = None,
        measure: TextMeasure = "loss_per_token",
        window: int | None = None,
        columns: dict[str, str] | None = None,
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        super().__init__(name, validation, test, columns, limit, batch_tokens)
        self.measure = _one_of(measure, TextMeasure, name)
        self.window = check_integer("window", window, at_least=1, optional=True)

    def requests(self, row: TextRow, encoder: Encoder, length: int) -> list[Scored]:
        """The windows of the text."""
        if self.window is not None and self.window > length:
            what = f"the model reads {length} tokens at once"
            raise UserError(what, where=f"task {self.name}, window {self.window}", fix="leave it out, or lower it")
        found = encoder.windows(row.text, self.window or length)
        if not found[0].target:
            raise self.refused(row, "the text has no token", "leave it out")
        return found

    def values(self, logprobs: Sequence[Tensor]) -> list[float]:
        """Log-probability of the text, and its tokens."""
        return [float(sum(each.double().sum() for each in logprobs)), float(sum(map(len, logprobs)))]

    def numbers(self, rows: Sequence[TextRow], values: Sequence[Sequence[float]]) -> dict[str, float]:
        """``loss``, the task's score, losses and perplexities."""
        sums, tokens, counts = _columns(rows, values)
        scores = text_likelihood_from_sums(sums, tokens, counts)
        names = (*get_args(TextMeasure), "token_perplexity", "byte_perplexity")
        found = {name: float(scores[name]) for name in names}
        return {"loss": found[self.measure], **found}

    def item_scores(self, rows: Sequence[TextRow], values: Sequence[Sequence[float]]) -> list[float]:
        """With ``r`` the loss over all texts and ``n_i`` a text's tokens or bytes: ``r + (loss_i - r) n_i / mean(n)``.

        The mean of these is r, and their spread is that of a ratio of sums, long texts counting more.
        """
        sums, tokens, counts = _columns(rows, values)
        score, size = self.numbers(rows, values)["loss"], tokens if self.measure == "loss_per_token" else counts
        unit = score / float(-sums.sum() / size.sum()) if float(sums.sum()) else 1.0
        return (score + (-sums * unit - score * size) / size.mean()).tolist()


def _columns(rows: Sequence[TextRow], values: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, tokens and bytes of each text, float64 [N]."""
    sums, tokens = torch.tensor(values, dtype=torch.float64).reshape(-1, 2).unbind(1)
    return sums, tokens, torch.tensor([len(row.text.encode()) for row in rows], dtype=torch.float64)


def _one_of(measure: Any, known: Any, name: str) -> Any:
    if measure not in get_args(known):
        fix = f"use one of: {', '.join(get_args(known))}"
        raise UserError(f"there is no measure {measure!r}", where=f"task {name}, measure", fix=fix)
    return measure
