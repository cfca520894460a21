"""Methods of stand-ins: each does in the program what is asked of it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .observer import Observer

_OPERATORS = "add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift"
_METHODS = (
    "call len iter next reversed getitem setitem delitem missing bool index int float complex round trunc floor ceil"
    " abs neg pos invert str repr format bytes enter exit aenter aexit aiter anext await length_hint fspath init dir"
)
COMPARING = {"__lt__", "__le__", "__gt__", "__ge__", "__contains__"}
COMPUTING = {f"__{side}{name}__" for name in _OPERATORS.split() for side in ("", "r", "i")}
#: Methods of texts and collections by which a test compares.
PREDICATES = {"startswith", "endswith", "issubset", "issuperset", "isdisjoint", "count", "index", "find"}
#: What is forwarded; what a class of the program has besides is not shown to Python's operators.
SPECIAL = COMPARING | COMPUTING | {f"__{name}__" for name in _METHODS.split()}


def get_attribute(self: Any, name: str) -> Any:
    """What the program's object has and its stand-in lacks."""
    return self._peer_.call("getattr", self, name)


def forward_special(peer: Observer, name: str, number: int | None = None) -> Callable[..., Any]:
    """A method that Python's operators look for in a type; ``number`` is that of its class, if it is no metaclass."""
    if name == "__exit__":
        return _exit
    if name == "__aexit__":
        return _exit_asynchronously
    if name == "__call__":
        return lambda self, *arguments, **named: peer.call_function(
            peer.called.get(self._number_, "it"), self._number_, *arguments, **named
        )
    judging = name in COMPARING or name in COMPUTING

    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        if judging:
            peer.judged(self, name, arguments)
        if number is None:
            result = peer.call("special", self, name, *arguments)
        else:
            result = peer.call("method", peer.stand_ins[number], name, self, *arguments, **named)
        if name in COMPARING and result is not NotImplemented and peer.truth(result):
            peer.check_comparison(self, name, arguments[0])
        return result

    return forward


def forward_method(peer: Observer, number: int, name: str) -> Callable[..., Any]:
    """A function of the class with that number."""

    def method(*arguments: Any, **named: Any) -> Any:
        if name in PREDICATES and arguments:
            peer.judged(arguments[0], name, arguments[1:])
        return peer.call_function(name, "method", peer.stand_ins[number], name, *arguments, **named)

    method.__name__ = name
    return method


def _exit(self: Any, kind: Any, error: Any, trace: Any) -> Any:
    """Leave a block; an assertion of the test that failed in it stays failed, whatever the program says."""
    return _unless_failed(self._peer_.call("special", self, "__exit__", kind, error, None), error)


async def _exit_asynchronously(self: Any, kind: Any, error: Any, trace: Any) -> Any:
    return _unless_failed(await self._peer_.call("special", self, "__aexit__", kind, error, None), error)


def _unless_failed(result: Any, error: Any) -> Any:
    return False if isinstance(error, AssertionError) and not hasattr(error, "remote") else result


def equal(peer: Observer) -> Callable[[Any, Any], Any]:
    """``==`` of a class that decides what it equals: asked about objects of the program, never about data."""

    def compare(self: Any, other: Any) -> Any:
        if peer.stands_in(other):
            result = peer.call("special", self, "__eq__", other)
            return False if result is not NotImplemented and peer.truth(result) and peer.equals_all(self) else result
        return NotImplemented if peer.cannot_equal(self, other) else False

    return compare


def equal_by_content(peer: Observer, content: Any) -> Callable[[Any, Any], Any]:
    """``==`` of a class that extends a plain type: that of the plain type."""
    plain = getattr(content, "__eq__")  # noqa: B009 - of the type, not of an instance

    def compare(self: Any, other: Any) -> Any:
        result: Any = plain(self, other)
        if result is not True:
            peer.equals_all(self)
        return result

    return compare


def unequal(self: Any, other: Any) -> Any:
    """The opposite of equal."""
    equal: Any = type(self).__eq__
    result = equal(self, other)
    return result if result is NotImplemented else not result


def default_hash(self: Any) -> int:
    """By number."""
    return hash(self._number_)


def own_hash(self: Any) -> int:
    """As the program has it."""
    return int(self._peer_.call("special", self, "__hash__"))
