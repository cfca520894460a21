"""How far a test can trust what it sees of a program."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any

from .mirrors import Mirror, is_mirror
from .peer import Peer

if TYPE_CHECKING:
    import _socket

_LARGEST = float("inf")


class _Fresh:
    """Stands for a new object that the program makes, and that equals nothing."""


FRESH = _Fresh()


class Trust(Peer):
    """An end of a connection that keeps in mind why a test's outcome may be wrong.

    Attributes:
        doubts: What of the current test stand-ins may show otherwise than the objects themselves.
        spoofed: Whether an object of the program claimed to be equal to everything.
        self_judged: Whether an object that the test does not know by its class took part in a comparison's outcome.
        swallowed: Whether an assertion failed in a function of the test that the program called.
        raised: How many exceptions of the program reached the test.
        named: Numbers of the program's classes that the test names.
    """

    def __init__(self, connection: _socket.socket, first: int) -> None:
        super().__init__(connection, first)
        self.trust_anew()

    def trust_anew(self) -> None:
        """A new test begins."""
        self.doubts: list[str] = []
        self.named: set[int] = set()
        self.spoofed = self.self_judged = self.swallowed = False
        self.raised = 0

    def doubt(self, reason: str) -> None:
        """Note that stand-ins may not show what the test asks for."""
        if reason not in self.doubts:
            self.doubts.append(reason)

    def stands_in(self, value: Any) -> bool:
        """Whether a value stands in for an object or a class of the program."""
        return is_mirror(value)

    def truth(self, value: Any) -> bool:
        """Whether the program's answer to a comparison means yes."""
        return bool(value)

    def judged(self, value: Any, name: str, arguments: tuple[Any, ...]) -> None:
        """An object of the program computes or compares with a value of the test."""
        if isinstance(value, Mirror) or all(is_mirror(argument) for argument in arguments):
            return
        if not any(getattr(kind, "_number_", None) in self.named for kind in type(value).__mro__):
            self.self_judged = True

    def equals_all(self, value: Any) -> bool:
        """Whether an object of the program says that it equals what nothing equals."""
        with contextlib.suppress(Exception):  # Many look into the other object without asking what it is.
            answer = self.call("special", value, "__eq__", FRESH)
            self.spoofed = self.spoofed or (answer is not NotImplemented and self.truth(answer))
        return self.spoofed

    def cannot_equal(self, value: Any, other: Any) -> bool:
        """Whether an object of the program has nothing to say about values of the type of ``other``.

        It is never shown ``other``, which may be the expected result, but values that have nothing to do with it.
        """
        nothing = not self.equals_all(value)
        for sample in samples(other) or [FRESH]:
            answer = self.call("special", value, "__eq__", sample)
            if answer is not NotImplemented:
                nothing = False
                if self.truth(answer):
                    self.spoofed = True
        if not nothing:
            self.doubt("an object of the program decides what it equals")
        return nothing

    def check_comparison(self, value: Any, name: str, other: Any) -> None:
        """See whether an object of the program that says yes to a comparison says so to everything."""
        probe: Any = FRESH if name == "__contains__" else _LARGEST if name in ("__gt__", "__ge__") else -_LARGEST
        if is_mirror(other) or (name != "__contains__" and not isinstance(other, int | float)):
            return
        try:
            answer = self.call("special", value, name, probe)
        except Exception:
            return
        if answer is not NotImplemented and self.truth(answer):
            self.spoofed = True


def samples(value: Any) -> list[Any]:
    """Values of the type of ``value`` that have nothing to do with it."""
    number = 2 + secrets.randbelow(1 << 40)
    text = secrets.token_hex(6)
    if isinstance(value, bool) or value is None:
        return []
    for kind, made in (
        (int, number), (float, number / 7), (complex, complex(number, 1)), (str, text), (bytes, text.encode()),
        (list, [text, number]), (tuple, (text, number)), (dict, {text: number}), (set, {text}),
        (frozenset, frozenset([text])),
    ):  # fmt: skip
        if isinstance(value, kind):
            return [made]
    return []
