"""A contract is a verifier with all that an answer format decides: its markers and how a reference is written."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lit_sdpo.errors import UserError
from lit_sdpo.rewards.base import Verdict, failed
from lit_sdpo.rewards.thinking import Completion, final_text

if TYPE_CHECKING:
    from lit_sdpo.data.task import Row

_BOX_PARTS = re.compile(r"\\\\|\\boxed\s*\{|\\[{}]|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}`` whose braces balance, in one pass over the text.

    Of nested boxes the outer one is the answer, with all that it holds; a box that is nothing but a box is that one.
    After two backslashes, which break a line, ``boxed`` is a word.

    Example:
        >>> last_boxed(r"first \boxed{1}, then \boxed{\frac{1}{2}} and \boxed{cut")
        '\\frac{1}{2}'
        >>> last_boxed(r"\boxed{4\boxed{3}}"), last_boxed(r"\boxed{\boxed{3}}"), last_boxed(r"\\boxed{3}") is None
        ('4\\boxed{3}', '3', True)
    """
    opened: list[tuple[int, int]] = []  # Start of a brace's or box's token, and start of a box's content or -1.
    outer: tuple[int, int] | None = None  # Start of the token and end of the content of the last box.
    inner: tuple[int, int] | None = None  # Of the innermost box, where each is the whole of the one around it.
    for part in _BOX_PARTS.finditer(text):
        token = part.group()
        if token.startswith("\\boxed"):
            opened.append((part.start(), part.end()))
        elif token == "{":
            opened.append((part.start(), -1))
        elif token == "}" and opened:
            start, begin = opened.pop()
            if begin < 0:
                continue
            bare = False
            if outer is not None and outer[0] >= begin:
                bare = not (text[begin : outer[0]] + text[outer[1] + 1 : part.start()]).strip()
            inner = inner if bare else (begin, part.start())
            outer = (start, part.start())
    return text[slice(*inner)] if inner is not None else None


class Contract(ABC):
    """A scoring contract: what a correct answer looks like, and whether a completion is one.

    Subclasses see only the text after thinking. Whatever a completion holds, a contract returns a verdict: a failure
    of its own is an abstention with the flag ``"verifier_failed"``, never a score.
    """

    #: Regular expressions that find the answer format in a completion.
    markers: ClassVar[tuple[str, ...]] = ()

    #: Whether it may hang or crash on some completion and has to run in a process of its own.
    isolated: ClassVar[bool] = False

    #: Address space in bytes while it runs in a worker.
    memory: ClassVar[int | None] = None

    #: What to tell a model whose answer is not in the format.
    form: ClassVar[str] = ""

    def __call__(self, completion: str, row: Row) -> Verdict:
        """Judge ``completion`` as an answer to ``row``."""
        text = final_text(completion)
        if text is None:
            return unanswered(completion, self.form)
        try:
            return self.judge(text, row.ground_truth)
        except UserError:
            raise
        except RecursionError:
            return self.malformed("The answer is nested too deeply to be read.")
        except MemoryError:
            return self.unfinished("memory")
        except Exception as error:
            return failed(type(error).__name__)

    def at_once(self, text: str, ground_truth: str) -> Verdict | None:
        """The verdict where it takes no risk and next to no time, else ``None``; spares the way to a worker."""
        return None

    @abstractmethod
    def judge(self, text: str, ground_truth: str) -> Verdict:
        """Judge the text after thinking."""

    @abstractmethod
    def reference(self, ground_truth: str, extra: Mapping[str, Any]) -> str | None:
        """A correct completion in the contract's form, or ``None`` where none can be written.

        Raises:
            ValueError: If ``ground_truth`` cannot be used by this contract; the message says why.
        """

    def prepare(self) -> None:  # noqa: B027 - most contracts need nothing
        """Check that everything the contract needs is there; called once before the first step.

        Raises:
            UserError: If something is missing on this machine.
        """

    def load(self) -> None:  # noqa: B027 - most contracts need nothing
        """Import what takes long; called in a worker before the time of the first completion begins."""

    def seconds(self, row: Row) -> float:
        """Time for one completion in a worker."""
        return 60.0

    def unfinished(self, reason: str) -> Verdict:
        """The verdict on a completion that took too much time or memory in a worker, or that crashed it."""
        return failed(reason)

    def missing(self) -> Verdict:
        """The verdict on a text without an answer."""
        return Verdict(0.0, f"No answer was found. {self.form}".strip(), ("no_answer",))

    def malformed(self, what: str) -> Verdict:
        """The verdict on an answer that is not in the format."""
        return Verdict(0.0, f"{what} {self.form}".strip(), ("wrong_format",))


def unanswered(completion: str, form: str = "") -> Verdict:
    """The verdict on thinking that never ended: whatever it holds, there is no answer.

    Args:
        completion: What the model wrote.
        form: What to tell it about the form of an answer.
    """
    cut_off = isinstance(completion, Completion) and not completion.finished
    what = "The thinking was cut off before an answer." if cut_off else "No answer was given before the thinking ended."
    return Verdict(0.0, f"{what} {form}".strip(), ("no_answer",))


def right_or(correct: bool, feedback: str) -> Verdict:
    """Score 1, or 0 with ``feedback``."""
    return Verdict(1.0) if correct else Verdict(0.0, feedback)
