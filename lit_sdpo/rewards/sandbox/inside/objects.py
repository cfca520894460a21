"""The program's end of the connection to a test: shows the program's objects, and does what the test asks for."""

from __future__ import annotations

import builtins
import io
import sys

from .describe import CONTENTS, FACTS, describe, is_known_builtin, lines_of
from .peer import Peer, text_of
from .values import dictionary_base, is_known, name_of
from .wire import SHORT, receive_in_program, send, send_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterator
    from types import ModuleType
    from typing import Any

_DEEPEST_ERROR = 5
_LONGEST_OUTPUT = 1 << 20


class ProgramPeer(Peer):
    """The program's end.

    Args:
        connection: The stream to the test.
        module: The program.
        run: Runs the program.
    """

    def __init__(self, connection: _socket.socket, module: ModuleType, run: Callable[[], None]) -> None:
        super().__init__(connection, 1)
        self.module, self.run = module, run
        self._functions: dict[int, Any] = {}
        self._test_numbers: dict[int, int] = {}
        self._loop: Any = None
        self._references = 0
        self.output = _Output()
        self._measure()
        sys.stdout = io.TextIOWrapper(self.output, "utf-8", "replace", write_through=True)

    # ------------------------------------------------------------------------------------------------------ messages
    def send(self, message: Any) -> None:
        """Send one message as JSON."""
        send(self.connection, message)

    def receive(self) -> Any:
        """The next message."""
        return receive_in_program(self.connection)

    def over(self) -> None:
        """Tell that the call is over."""
        send_bytes(self.connection, b"")

    def function(self, name: Any) -> Callable[..., Any]:
        """An object by its number, or one of the operations below by its name."""
        return self.objects[name] if isinstance(name, int) else getattr(self, f"do_{name}")

    def beyond(self, error: BaseException) -> tuple[str, Any]:
        """A result that cannot be written is no fault of the program."""
        return "unsendable", None

    def facts(self, held: list[Any]) -> dict[str, Any]:
        """What the program printed, and whether it keeps values that can change."""
        written = self.output.take()
        facts: dict[str, Any] = {"out": written} if written else {}
        for value in held:
            if self._number_of(value) is not None and not self.keeps:
                others = sys.getrefcount(value) - sum(other is value for other in held)
                self._references = self._references or others
                self.keeps = others > self._references
        if self.keeps:
            facts["kept"] = True
        elif self.depth == 1:
            self.forget()
        return facts

    def _measure(self) -> None:
        """Learn how many references there are to a value that only the call in hand knows."""
        send, over = self.send, self.over
        self.send, self.over = lambda message: None, lambda: None  # type: ignore[method-assign]
        self.answer(["call", "same", [["list", 0, []]], {}, []])
        self.send, self.over = send, over  # type: ignore[method-assign]

    def do_same(self, value: Any) -> None:
        """Nothing."""

    # ------------------------------------------------------------------------------------------------------- objects
    def encode_object(self, value: Any, depth: int) -> Any:
        """An object of the program: what it is, with a number by which the test can ask more of it."""
        test = self._test_numbers.get(id(value))
        if test is not None:
            return ["yours", test]
        if isinstance(value, type):
            return ["type", name_of(value)] if is_known(value) else self._class(value)
        if isinstance(value, BaseException):
            return self._error(value, depth)
        kind: type = type(value)
        number = self.object_number(value)
        if kind.__name__ in ("coroutine", "async_generator") and is_known_builtin(kind):
            return [kind.__name__, number]
        content = ["object", number, self._class(kind)]
        for base, plain in CONTENTS.items():
            if isinstance(value, base) and kind is not base:
                content.append(self._plain(base, plain(value), depth + 1))
                break
        return content

    def _plain(self, base: type, value: Any, depth: int) -> Any:
        if base is dict:
            return list(self._encode_items(value, depth))
        return self._encode_all(value, depth) if base in (list, set, tuple, frozenset) else self.encode(value, depth)

    def _class(self, kind: type) -> Any:
        number = self.object_number(kind)
        if number in self.described:
            return ["class", number]
        self.described.add(number)
        return ["class", number, describe(kind, [self.encode_object(base, 0) for base in kind.__bases__])]

    def _error(self, error: BaseException, depth: int) -> Any:
        kind: Any = type(error)
        shown = ["type", name_of(kind)] if is_known(kind) else self._class(kind)
        arguments = [self.encode(part, depth + 1) for part in error.args] if depth < _DEEPEST_ERROR else []
        cause = (
            self._error(error.__cause__, depth + 1) if error.__cause__ is not None and depth < _DEEPEST_ERROR else None
        )
        number = self.object_number(error)
        facts = {
            name: self.encode(value, depth + 1)
            for name in (*FACTS, *vars(error))
            if (value := getattr(error, name, None)) is not None and depth < _DEEPEST_ERROR
        }
        text, name = text_of(error), kind.__name__[:SHORT]
        return ["exception", number, shown, arguments, text, lines_of(error), name, cause, facts]

    def decode_object(self, content: list[Any]) -> Any:
        """What the test says that is no data."""
        kind, number = content[0], content[1]
        if kind == "yours":
            value = self.objects[number]
            if len(content) > 2:
                self._replace(value, content[2])
            return value
        if kind == "type":
            module, _, name = number.rpartition(".")
            return getattr(sys.modules.get(module) or __import__(module), name)
        if kind == "fresh":
            return object()
        if kind == "stream":
            stream: Any = io.StringIO(content[2]) if isinstance(content[2], str) else io.BytesIO(content[2])
            stream.seek(content[3])
            return stream
        if kind == "builtin":
            return self.decode(content[1])(*self.decode(content[2]))
        if kind in ("property", "staticmethod", "classmethod"):
            return getattr(builtins, kind)(*[self.decode(part) for part in content[1]])
        if number not in self._functions:
            made = _iterator(self, number) if kind == "iterator" else _function(self, number, content[2])
            self._functions[number] = made
            self._test_numbers[id(made)] = number
        return self._functions[number]

    def _replace(self, value: Any, content: Any) -> None:
        """Give an object that extends a list, set or dictionary the members that it has in the test."""
        base = next(base for base in (list, set, dict) if isinstance(value, base))
        self.begin()
        if self._plain(base, CONTENTS[base](value), 1) == content:
            return
        if base is dict:
            base = dictionary_base(value)
            base.clear(value)
            for key, member in zip(self._decode_all(content[0]), self._decode_all(content[1]), strict=True):
                base.__setitem__(value, key, member)
        elif base is list:
            list.__setitem__(value, slice(None), self._decode_all(content))
        else:
            members = self._decode_all(content)
            set.clear(value)
            set.update(value, members)

    # ---------------------------------------------------------------------------------------------------- operations
    def do_begin(self) -> None:
        """A new test begins, which knows nothing of earlier ones."""
        self.begin_anew()
        self._functions.clear()
        self._test_numbers.clear()

    def do_run(self) -> dict[str, bool]:
        """Run the program; its names, and which of them are modules."""
        self.run()
        return {name: isinstance(value, type(sys)) for name, value in list(vars(self.module).items())}

    def do_look_up(self, name: str) -> Any:
        """What the program calls by that name."""
        return vars(self.module)[name]

    def do_special(self, value: Any, name: str, *arguments: Any) -> Any:
        """Call a method that belongs to the type, as Python's operators do."""
        return getattr(type(value), name)(value, *arguments)

    def do_method(self, kind: type, name: str, *arguments: Any, **named: Any) -> Any:
        """Call a function of a class."""
        return getattr(kind, name)(*arguments, **named)

    def do_getattr(self, value: Any, name: str) -> Any:
        """An attribute."""
        return getattr(value, name)

    def do_setattr(self, value: Any, name: str, new: Any) -> None:
        """Set an attribute."""
        setattr(value, name, new)

    def do_delattr(self, value: Any, name: str) -> None:
        """Delete an attribute."""
        delattr(value, name)

    def do_isinstance(self, value: Any, kind: type) -> bool:
        """Whether a class counts an object as an instance."""
        return isinstance(value, kind)

    def do_copy(self, value: Any, *, deep: bool) -> Any:
        """A copy."""
        import copy

        return copy.deepcopy(value) if deep else copy.copy(value)

    def do_subclass(self, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> type:
        """A class that a test makes of classes of the program."""
        import types

        made = types.new_class(name, bases, {}, lambda space: space.update(members))
        made.__module__ = "test"
        return made

    def do_finish(self, coroutine: Any) -> Any:
        """The result of a coroutine."""
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(coroutine)

    def do_finish_next(self, generator: Any) -> Any:
        """The next item of an asynchronous generator."""
        return self.do_finish(anext(generator))


class _Output(io.BytesIO):
    """What the program prints while it works for a test."""

    def write(self, data: Any) -> int:
        """Keep what is printed, up to a limit."""
        return super().write(data) if self.tell() < _LONGEST_OUTPUT else len(data)

    def take(self) -> str:
        """What came since the last time."""
        try:
            if not self.tell():
                return ""
            written = self.getvalue()
            self.seek(0)
            self.truncate()
            return written[:_LONGEST_OUTPUT].decode("utf-8", "replace")
        except ValueError:  # The program has closed it.
            return ""


def _function(peer: ProgramPeer, number: int, name: str) -> Callable[..., Any]:
    def function(*arguments: Any, **named: Any) -> Any:
        return peer.call(number, *arguments, **named)

    function.__name__ = function.__qualname__ = name
    return function


def _iterator(peer: ProgramPeer, number: int) -> Iterator[Any]:
    while True:
        try:
            item = peer.call(number)
        except StopIteration:
            return
        yield item
