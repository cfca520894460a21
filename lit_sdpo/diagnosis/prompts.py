"""Prompts as the model reads them: lengths, special tokens, and whether the chat template keeps its word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from lit_sdpo.callbacks.likelihood import LikelihoodEvaluation
from lit_sdpo.diagnosis.findings import Finding
from lit_sdpo.errors import UserError
from lit_sdpo.modules.taught import Taught
from lit_sdpo.policies.chat import rendered as rendered_prompts
from lit_sdpo.policies.load import check_vocabulary, end_token_ids, render
from lit_sdpo.text import printable

if TYPE_CHECKING:
    from lit_sdpo.diagnosis.configuration import Run

#: Rows of a set whose lengths are told; all of them are checked.
MEASURED = 500
#: Characters of a rendered prompt that are shown.
LONGEST = 1500
STAND_IN = "(a verified completion)"


def lengths(run: Run) -> Iterator[Finding]:
    """What ``fit`` checks of rows and prompts before its first step, and the lengths of each set."""
    most = run.rollout.max_prompt_tokens
    long = False
    for where, _, rows in run.sets:
        step = max(1, -(-len(rows) // MEASURED))
        chosen = [rows[n].messages for n in range(0, len(rows), step)]
        written, refused = rendered_prompts(run.tokenizer, chosen, run.module.chat_template_options)
        counts = sorted(map(len, written))
        if refused:  # what a run does about it, and which row it is, comes below
            continue
        if not counts:
            continue
        text = f"{where}: {len(rows):,} rows, prompts of {counts[0]} to {counts[-1]} tokens (at most {most:,} allowed)"
        if counts[-1] > most:
            long = True
            over = f"{sum(count > most for count in counts)} of {len(counts)} are longer"
            yield Finding("prompts", "problem", f"{text}; {over}", "raise rollout.max_prompt_tokens or leave them out")
        else:
            yield Finding("prompts", "ok", text)
    try:
        run.data.setup("fit")
        run.rollout.setup(run.trainer, run.module, "fit")
    except UserError as error:
        if not long or "max_prompt_tokens" not in error.what:
            raise
    if run.policy is not None:  # now that its limit is known, prompts with completions are compared with it
        run.rollout.on_fit_start(run.trainer, run.module)


def likelihood(run: Run) -> Iterator[Finding]:
    """What an evaluation reads of the tasks that are scored without generating; all their rows are cut into tokens."""
    if run.data.likelihood and run.policy is not None:
        scored = LikelihoodEvaluation()
        scored.on_fit_start(run.trainer, run.module)
        for task in run.data.likelihood:
            rows = scored.requests[task.name]
            tokens = sum(sum(map(len, {r.context for r in row})) + sum(len(r.target) for r in row) for row in rows)
            yield Finding("likelihood", "ok", f"{task.name}: {len(rows):,} rows, {tokens:,} tokens in each evaluation")


def template(run: Run) -> Iterator[Finding]:
    """End tokens, and whether text and tokens of the template agree."""
    tokenizer, options = run.tokenizer, run.module.chat_template_options or {}
    check_vocabulary(run.policy, tokenizer)
    ends = end_token_ids(run.policy, tokenizer)
    yield Finding("end tokens", "ok", ", ".join(f"{tokenizer.convert_ids_to_tokens(i)} ({i})" for i in ends))
    row = _first(run)
    messages = [dict(message) for message in row.messages]
    yield from template_findings(tokenizer, messages, row.reference or STAND_IN, ends, options)


def template_findings(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    answer: str,
    ends: Sequence[int],
    options: dict[str, Any],
) -> Iterator[Finding]:
    """Compare a prompt as text and as tokens, and with the same chat after the model's answer.

    Args:
        tokenizer: With a chat template.
        messages: A prompt.
        answer: What the model could answer.
        ends: Tokens that end a completion.
        options: Further arguments of the template.
    """
    some: Any = tokenizer
    ids = render(tokenizer, messages, options)
    text = some.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False, **options)
    part = "chat template"
    fine = True
    if tokenizer.encode(text, add_special_tokens=False) != ids:
        fine = False
        yield Finding(part, "problem", "its text, encoded, gives other tokens than it does itself", "mend the template")
    begin = tokenizer.bos_token_id
    # Where one begins every turn, as in ChatML, two may well stand apart.
    if begin is not None and ids[:2] == [begin, begin]:
        fine = False
        text = f"a prompt begins with {tokenizer.bos_token} twice"
        yield Finding(part, "problem", text, "remove one from the template")
    if tokenizer.decode(ids) != text:
        fine = False
        yield Finding(part, "note", "decoding its tokens does not give its text back; completions go by token id")
    chat = [*messages, {"role": "assistant", "content": answer}]
    answered = some.apply_chat_template(chat, tokenize=True, return_dict=False, **options)
    if answered[: len(ids)] != ids:
        fine = False
        text = "a finished turn begins otherwise than the prompt for it (as thinking templates do)"
        yield Finding(part, "note", f"{text}; completions are appended by token id, so training is not touched by it")
    if not set(answered[-4:]) & set(ends):
        fine = False
        closing = printable(str(tokenizer.decode(answered[-2:])))
        text = f"it closes the model's turn with {closing!r}, which is no end token: completions may never end"
        yield Finding(part, "note", text, "add it to eos_token_id in generation_config.json, if the model writes it")
    if fine:
        text = "text and tokens agree, an answered prompt begins with the prompt, the turn ends with an end token"
        yield Finding(part, "ok", text)


def rendered(run: Run) -> Iterator[Finding]:
    """One prompt of each task, and what a teacher with a demonstration reads."""
    options = run.module.chat_template_options
    reprompt = run.module.reprompt if isinstance(run.module, Taught) else None
    seen: set[str] = set()
    for where, task, rows in run.sets:
        if task.name in seen:
            continue
        seen.add(task.name)
        row = rows[0]
        ids = render(run.tokenizer, row.messages, options)
        title = f"{where}, row {row.id}, {len(ids)} tokens"
        yield Finding("prompt", "ok", title, shown=visible(run.tokenizer, ids))
        if reprompt is not None and len(seen) == 1:
            feedback = "(what the verifier says)" if reprompt.use_feedback else None
            taught = reprompt.messages(row.messages, row.reference or STAND_IN, feedback)
            ids = render(run.tokenizer, taught, options)
            title = f"the same with a demonstration, as the teacher reads it, {len(ids)} tokens"
            yield Finding("prompt", "ok", title, shown=visible(run.tokenizer, ids))


def visible(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """Lines of a prompt in which special tokens stand in «» and line ends are marked.

    Args:
        tokenizer: Its tokenizer.
        ids: Its tokens.
    """
    some: Any = tokenizer
    special = {*tokenizer.all_special_ids, *some.added_tokens_decoder}
    pieces: list[str] = []
    plain: list[int] = []
    for token in [*ids, None]:
        if token is not None and token not in special:
            plain.append(token)
            continue
        pieces.append(str(tokenizer.decode(plain)))
        plain = []
        if token is not None:
            pieces.append(f"«{tokenizer.convert_ids_to_tokens(token)}»")
    text = "".join(pieces)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} [...] {text[-LONGEST // 2 :]}"
    *lines, last = text.split("\n")
    return (*(f"{printable(line)}⏎" for line in lines), *([printable(last)] if last else []))


def _first(run: Run) -> Any:
    return next(rows[0] for _, _, rows in run.sets)
