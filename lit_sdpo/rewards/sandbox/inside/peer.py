"""One end of a connection between a test and a program: calls the other end, and answers its calls."""

from __future__ import annotations

from time import perf_counter

from .values import Codec
from .wire import SHORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

#: Values that both ends keep, and members of them, up to which each call tells what has changed.
_FEW, _FEW_MEMBERS = 64, 2000
_CHANGING = (list, dict, set, bytearray)
_NONSENSE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError)


class UnsupportedError(BaseException):
    """A test does something that cannot be done apart from the program."""


class GoneError(BaseException):
    """The other end is gone."""


class NonsenseError(GoneError):
    """What the other end says makes no sense."""


class Peer(Codec):
    """Calls what the other end has, and answers its calls.

    A call is ``["call", function, arguments, named arguments, changed]``, its answer ``["value", result, changed,
    facts]`` or ``["error", exception, changed, facts]``. What is ``changed`` are arguments and other values known to
    both ends, as they are now. An empty message in front of an answer says that the call is over and its result is
    being written. A program whose result cannot be written answers ``"unsendable"``.

    Args:
        connection: The stream between the two.
        first: See ``Codec``.
    """

    def __init__(self, connection: _socket.socket, first: int) -> None:
        super().__init__(first)
        self.connection = connection
        self.objects: list[Any] = []
        self.depth = 0
        self.keeps = False
        self.away = 0.0
        self._known_as: dict[int, Any] = {}
        self.described: set[int] = set()
        self._object_numbers: dict[int, int] = {}

    def begin_anew(self) -> None:
        """A new test begins: no value and no object of an earlier one is known."""
        self.forget()
        self.keeps = False
        self.objects.clear()
        self.described.clear()
        self._object_numbers.clear()

    def object_number(self, value: Any) -> int:
        """The number by which the other end knows an object of this end."""
        number = self._object_numbers.get(id(value))
        if number is None:
            self.objects.append(value)
            number = self._object_numbers[id(value)] = len(self.objects) - 1
        return number

    # ------------------------------------------------------------------------------------------------ for subclasses
    def send(self, message: Any) -> None:
        """Send one message."""
        raise NotImplementedError

    def receive(self) -> Any:
        """The next message, ``None`` for an empty one."""
        raise NotImplementedError

    def function(self, name: Any) -> Callable[..., Any]:
        """What the other end calls."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> Any:
        """An exception as data."""
        return self.encode(error)

    def beyond(self, error: BaseException) -> tuple[str, Any]:
        """What is answered instead of a result that cannot be written."""
        return "error", self.failed(error)

    def facts(self, held: list[Any]) -> dict[str, Any]:
        """What else the other end is told with an answer; ``held`` are the arguments and the result."""
        return {}

    def learn(self, facts: Any) -> None:
        """What the other end told."""

    # --------------------------------------------------------------------------------------------------------- calls
    def call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call something of the other end; what it changed of its arguments is changed here too.

        Raises:
            GoneError: If the other end is gone, or (``NonsenseError``) if what it says makes no sense.
            BaseException: What the call raised.
        """
        started = perf_counter()
        self.depth += 1
        self.begin()
        sent = [self.encode(argument) for argument in arguments]
        sent_named = {name: self.encode(value) for name, value in named.items()}
        self.send(["call", function, sent, sent_named, self._changed()])
        try:
            while (reply := self.receive()) is None or reply[0] == "call":
                if reply is not None:
                    self.answer(reply)
            kind, content, changed, facts = reply
            result = self.decode(content)
            for value in changed:
                self.decode(value)
            self.learn(facts)
            self._agree()
            if kind == "unsendable":
                raise UnsupportedError("what the program returns is more than a message may hold")
            if kind not in ("value", "error") or (kind == "error" and not isinstance(result, BaseException)):
                raise ValueError("no answer")
        except _NONSENSE as nonsense:
            import traceback

            traceback.print_exc()
            raise NonsenseError from nonsense
        finally:
            self.depth -= 1
            self.away += perf_counter() - started
        if kind == "error":
            raise result
        return result

    def answer(self, message: Any) -> None:
        """Do one call for the other end and send what came of it."""
        _, function, sent, sent_named, changed = message
        result: Any = None
        arguments: list[Any] = []
        named: dict[str, Any] = {}
        self.depth += 1
        started, away = perf_counter(), self.away
        try:
            arguments = [self.decode(content) for content in sent]
            named = {key: self.decode(value) for key, value in sent_named.items()}
            for value in changed:
                self.decode(value)
            self._agree()
            target = self.function(function)
            started, away = perf_counter(), self.away
            kind, result = "value", target(*arguments, **named)
        except BaseException as error:
            kind, result = "error", error
        took = perf_counter() - started - (self.away - away)
        if isinstance(result, _CHANGING) or any(isinstance(argument, _CHANGING) for argument in arguments):
            self.over()
        self.begin()
        try:
            content = self.failed(result) if kind == "error" else self.encode(result)
        except BaseException as error:
            kind, content = self.beyond(error)
        changed = self._changed_arguments(arguments, sent)
        facts = self.facts([*arguments, *named.values(), result])
        changed += self._changed()
        self._agree()
        self.depth -= 1
        try:
            self.send([kind, content, changed, {"took": took, **facts}])
        except (ValueError, MemoryError) as error:  # More than a message may hold.
            kind, content = self.beyond(error)
            self.send([kind, content, [], {"took": took}])

    def over(self) -> None:
        """Tell that the call is over."""

    def _changed_arguments(self, arguments: list[Any], sent: list[Any]) -> list[Any]:
        now = [self._now(new, old) for new, old in zip(arguments, sent, strict=False) if type(old) is list]
        return [content for content in now if content is not None]

    def _now(self, argument: Any, old: list[Any]) -> Any:
        """An argument as it is now, unless it is what came."""
        if old[0] == "yours" and len(old) == 2:
            return None
        before = set(self._seen), set(self.described)
        now = self.encode(argument)
        if now[0] == "again" or now == old or (old[0] == "yours" and now[3:] == old[2:]):
            self._seen, self.described = before  # Nothing of it is sent.
            return None
        return now

    def _changed(self) -> list[Any]:
        """Values that the other end may hold too and that are no longer what it knows; where they are few."""
        if not self._share():
            return []
        changed = []
        for number, value in list(self.shared.items()):
            if number not in self._seen and self._alone(value) != self._known_as.get(number):
                changed.append(self.encode(value))
        return [content for content in changed if content[0] != "again"]

    def _agree(self) -> None:
        """From here on, both ends know what the values hold now."""
        self._known_as = {n: self._alone(v) for n, v in list(self.shared.items())} if self._share() else {}

    def _share(self) -> bool:
        return self.keeps and len(self.shared) <= _FEW and sum(map(len, self.shared.values())) <= _FEW_MEMBERS

    def _alone(self, value: Any) -> Any:
        """A value as data, apart from the message in hand."""
        before = self._seen, set(self.described)
        self.begin()
        content = self.encode(value)
        self._seen, self.described = before
        return content


def text_of(error: BaseException) -> str:
    """The text of an exception, cut short."""
    try:
        return str(error)[:SHORT]
    except BaseException:
        return ""
