"""What of a completion is thinking, and what is its answer."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple


class Tags(NamedTuple):
    """What stands before and behind a block of thinking."""

    opening: str
    closing: str


#: What models put round their thinking. None of it is a word of programs or data, so it counts wherever it stands.
TAGS = (
    Tags("<think>", "</think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("◁think▷", "◁/think▷"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tags("<|inner_prefix|>", "<|inner_suffix|>"),
    Tags("<|channel>thought", "<channel|>"),
    Tags("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)

#: Tags that a program or a document may hold too: they count where the prompt opens the block, or where the tokenizer
#: writes them as one token.
WORDS = tuple(
    Tags(f"<{word}>", f"</{word}>")
    for name in (
        "think",
        "thinking",
        "thought",
        "thoughts",
        "reasoning",
        "reason",
        "reflection",
        "scratchpad",
        "analysis",
    )
    for word in (name, name.capitalize(), name.upper())
)


class Completion(str):
    """A completion's text, with what the text alone does not tell. Whoever needs the text only takes it as a ``str``.

    Outside a block an opening tag begins one, and the same pair's closing tag ends it. A closing tag alone ends
    thinking that began with the text.

    Args:
        text: What the model wrote.
        opened: The tags of a block in which the prompt ended.
        tags: The tags that count in the text.
        finished: Whether it ended by itself; otherwise it was cut off.

    Attributes:
        answer: The text behind the last block, or ``None`` where the thinking never ended.
        spoken: The text without its blocks and the white space behind them; one that never ends stays.
        finished: Whether it ended by itself.

    Example:
        >>> Completion("maybe 3, or", opened=TAGS[0]).answer is None
        True
        >>> Completion("maybe 3</think> It is 4.", opened=TAGS[0]).answer
        ' It is 4.'
    """

    answer: str | None
    spoken: str
    finished: bool

    def __new__(
        cls, text: str = "", *, opened: Tags | None = None, tags: Sequence[Tags] = TAGS, finished: bool = True
    ) -> Completion:
        """Find the blocks, in one pass over the text."""
        self = super().__new__(cls, text)
        block, kept, at, end = opened, list[str](), 0, 0
        search, owners = _marks((*tags, opened) if opened else tuple(tags))
        for mark in search.finditer(text):
            owner = owners[mark.group("tag")]
            if mark.group("tag") == owner.opening:
                if block is None:
                    kept.append(text[at : mark.start()])
                    block, at = owner, mark.start()
            elif block is None or block == owner:
                if block is None:  # It began before the text did.
                    kept.clear()
                block, at, end = None, mark.end(), mark.end("tag")
        self.answer = None if block is not None else text[end:]
        self.spoken = "".join([*kept, text[at:]])
        self.finished = finished
        return self


def final_text(completion: str) -> str | None:
    """What counts as the answer: the text after thinking, or ``None`` while the model still thinks.

    Of a plain text only the text itself is known; a :class:`Completion` also knows how its prompt ended.

    Example:
        >>> final_text("<think>maybe 3</think>It is 4.")
        'It is 4.'
        >>> final_text("<think>maybe 3") is None
        True
    """
    return _known(completion).answer


def spoken_text(completion: str) -> str:
    """The text without thinking; a block that never ends stays."""
    return _known(completion).spoken


def left_open(prompt: str, question: str = "", tags: Sequence[Tags] = TAGS) -> Tags | None:
    r"""The tags of the block in which a prompt ends, if it ends in one.

    What stands in the question is talk of thinking, not thinking; what the chat template writes behind it counts, and
    so does a tag that is the very last of the prompt, which need not be one of ``tags`` if its name speaks of thinking.

    Args:
        prompt: The prompt, or the end of it, as the model reads it.
        question: What the last turn says.
        tags: The tags that count.

    Example:
        >>> left_open("<|user|>What is 3 + 4?<|assistant|><think>\n", "What is 3 + 4?").opening
        '<think>'
        >>> left_open("<|user|>Write <think><|assistant|>", "Write <think>") is None
        True
        >>> left_open("What is 3 + 4? <|my_thoughts_begin|>")
        Tags(opening='<|my_thoughts_begin|>', closing='<|my_thoughts_end|>')
    """
    question = question.strip()
    behind = prompt.rpartition(question)[2] if question and question in prompt else ""
    search, owners = _marks(tuple(tags))
    block: Tags | None = None
    for mark in search.finditer(behind):
        owner = owners[mark.group("tag")]
        if mark.group("tag") == owner.opening:
            block = block or owner
        elif block == owner:
            block = None
    end = prompt.rstrip()
    return block or next((pair for pair in tags if end.endswith(pair.opening)), None) or _named(end, owners)


#: The last tag of a text whose name speaks of thinking.
_LAST_TAG = re.compile(
    r"(?:<\|?|\[|◁)(?P<name>[\w:.-]*(?:think|thought|reason|reflect|scratchpad|analysis)[\w:.-]*)(?:\|?>|\]|▷)\Z", re.I
)


def _named(end: str, known: Collection[str]) -> Tags | None:
    """The pair whose opening tag ends a prompt: ``<x>`` and ``</x>``, or the beginning and the end of ``x``."""
    last = _LAST_TAG.search(end[-80:])
    if last is None or last.group() in known or re.search(r"(?:\b|_)(?:end|close)(?:\b|_)", last["name"], re.I):
        return None
    tag = last.group()
    for word, other in (("begin", "end"), ("start", "end"), ("open", "close")):
        for form in (str.lower, str.upper, str.capitalize):
            if form(word) in tag:
                return Tags(tag, tag.replace(form(word), form(other)))
    at = tag.index(last["name"])
    return Tags(tag, f"{tag[:at]}/{tag[at:]}")


def _known(completion: str) -> Completion:
    return completion if isinstance(completion, Completion) else Completion(completion)


@lru_cache(maxsize=64)
def _marks(tags: tuple[Tags, ...]) -> tuple[re.Pattern[str], dict[str, Tags]]:
    """A pattern that finds every tag, with the white space behind a closing one, and whose tag it is."""
    owners = {tag: pair for pair in tags for tag in pair}
    longest_first = "|".join(re.escape(tag) for tag in sorted(owners, key=len, reverse=True))
    return re.compile(rf"(?P<tag>{longest_first})\s*"), owners
