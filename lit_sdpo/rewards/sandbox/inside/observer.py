"""The test's end of the connection to a program: its messages, its time, and what the test sees of it."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
import types
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .mirrors import Mirror, is_mirror, make_class, make_object
from .peer import GoneError, NonsenseError, UnsupportedError
from .trust import FRESH, Trust
from .values import dictionary_base, is_known, known_type, name_of
from .wire import parse, receive_bytes, send_to_program
from .words import article, shown

if TYPE_CHECKING:
    import _socket

#: Seconds of a test that are not the program's whatever it says: at all, for each message and for each byte.
_FREE, _FREE_MESSAGE, _FREE_BYTE = 0.5, 1e-3, 2e-6
_WRITING_SECONDS = 60.0


class OvertimeError(BaseException):
    """The program took longer than it may."""


class Observer(Trust):
    """The test's end.

    Attributes:
        last: The last call of a function of the program, in words.
        claimed: Seconds that the program says it took in the current test.
        waited: Seconds that the test waited for it, less what messages take.

    Args:
        connection: The stream to the program.
        limit: Seconds of the program for each test.
    """

    def __init__(self, connection: _socket.socket, limit: float) -> None:
        super().__init__(connection, 0)
        self.limit = limit
        self.called: dict[int, str] = {}
        self.stand_ins: dict[int, Any] = {}
        self.overtime = False
        self._began = False
        self._lock = threading.RLock()  # A test may have threads.
        self._size = 0
        self._coroutines: dict[int, tuple[Any, int]] = {}
        self._reset()

    def _reset(self) -> None:
        self.trust_anew()
        self.claimed, self.waited = 0.0, -_FREE
        self.last = ""

    @property
    def spent(self) -> float:
        """Seconds that count as the program's: what it says, unless the test waited for much longer."""
        return max(self.claimed, self.waited)

    def begin_test(self) -> None:
        """A new test: nothing of an earlier one is known. The time of the program's start counts for the first."""
        first, claimed, waited = not self._began, self.claimed, self.waited
        self._reset()
        self._began = True
        if first:
            self.claimed, self.waited = claimed, waited
        self.begin_anew()
        for known in (self.called, self.stand_ins, self._coroutines):
            known.clear()
        self.call("begin")

    # ------------------------------------------------------------------------------------------------------ messages
    def send(self, message: Any) -> None:
        """Send one message to the program."""
        try:
            self.connection.settimeout(_WRITING_SECONDS)
            self._size = send_to_program(self.connection, message)
        except ValueError as error:
            raise self.unsupported("a test hands over more than a message may hold") from error
        except TimeoutError as error:
            raise self._over_time() from error
        except OSError as error:
            raise GoneError from error

    def receive(self) -> Any:
        """The next message, within the program's time; ``None`` when it says that it is done."""
        started = perf_counter()
        self.connection.settimeout(max(self.limit - self.spent, 0.0) + _FREE + self._size * _FREE_BYTE)
        try:
            data = receive_bytes(self.connection)
            self.waited += perf_counter() - started - _FREE_MESSAGE - (self._size + len(data)) * _FREE_BYTE
            self._size = 0
            if not data:
                self.connection.settimeout(_WRITING_SECONDS)
                data = receive_bytes(self.connection)
            return parse(data)
        except TimeoutError as error:
            raise self._over_time() from error
        except (EOFError, OSError) as error:
            raise GoneError from error
        except ValueError as error:
            raise NonsenseError from error

    def _over_time(self) -> OvertimeError:
        self.overtime = True
        return OvertimeError()

    def learn(self, facts: Any) -> None:
        """What the program told: how long it took, what it printed, whether it keeps what it was handed."""
        took = float(facts["took"])
        self.claimed += max(took, 0.0) if took == took else self.limit
        if self.spent > self.limit:
            raise self._over_time()
        if "out" in facts:
            sys.stdout.write(str(facts["out"]))
        if "kept" in facts:
            self.keeps = True
            self.doubt("the program keeps a value that can change")
        if not self.keeps and self.depth == 1:
            self.forget()

    def function(self, name: Any) -> Callable[..., Any]:
        """A function that the test handed over; the program can call nothing else."""
        if type(name) is not int:
            raise ValueError("no function")
        found: Callable[..., Any] = self.objects[name]
        return found

    def answer(self, message: Any) -> None:
        """Call a function of the test for the program."""
        super().answer(message)
        if self.overtime:
            raise OvertimeError

    def failed(self, error: BaseException) -> Any:
        """An exception of the test as the program sees it."""
        if isinstance(error, AssertionError) and not hasattr(error, "remote"):
            self.swallowed = True
            self.doubt("an assertion fails in a function that the program calls")
            return self.encode(AssertionError())
        try:
            return self.encode(error)
        except UnsupportedError:
            return self.encode(RuntimeError(type(error).__name__))

    # ---------------------------------------------------------------------------------------------------- stand-ins
    def encode_object(self, value: Any, depth: int) -> Any:
        """A stand-in as what it stands for; functions of the test by number."""
        if is_mirror(value):
            number = value._number_
            if isinstance(value, list | set | dict):
                if isinstance(value, dict):
                    return ["yours", number, self._encode_items(dict(dictionary_base(value).items(value)), depth)]
                base: Any = list if isinstance(value, list) else set
                return ["yours", number, self._encode_all(list(base.__iter__(value)), depth)]
            return ["yours", number]
        if isinstance(value, _Known):
            return ["yours", value.number]
        if id(value) in self._coroutines:
            return ["yours", self._coroutines[id(value)][1]]
        if isinstance(value, type):
            if is_known(value):
                return ["type", name_of(value)]
        elif isinstance(value, BaseException):
            return self._exception(value, depth)
        elif isinstance(value, property | staticmethod | classmethod):
            parts = (value.fget, value.fset, value.fdel) if isinstance(value, property) else (value.__func__,)
            return [type(value).__name__, [self.encode(part, depth + 1) for part in parts]]
        elif type(value) in (io.StringIO, io.BytesIO):
            self.doubt("a test hands a stream to the program")
            return ["stream", 0, value.getvalue(), value.tell()] if not value.closed else None
        elif isinstance(value, Iterator):
            self.doubt("a test hands an iterator to the program")
            return ["iterator", self.object_number(value.__next__), ""]
        elif callable(value) and not _is_asynchronous(value):
            return ["object", self.object_number(value), str(getattr(value, "__name__", "function"))]
        if value is FRESH:
            return ["fresh", 0]
        if isinstance(value, types.TracebackType):
            self.doubt("a test hands a traceback to the program")
            return None
        raise self.unsupported(f"a test cannot hand {article(type(value).__name__)} to the program")

    def unsupported(self, reason: str) -> UnsupportedError:
        """The error of a test that cannot be run apart from the program."""
        self.doubt(reason)
        return UnsupportedError(reason)

    def _exception(self, error: BaseException, depth: int) -> Any:
        remote = getattr(error, "_number_", None)
        if remote is not None:
            return ["yours", remote]
        kind = next(kind for kind in type(error).__mro__ if is_known(kind))
        arguments = [self.encode(part, depth + 1) for part in error.args]
        return ["builtin", ["type", name_of(kind)], ["tuple", arguments]]

    def decode_object(self, content: list[Any]) -> Any:
        """A stand-in for what the program shows."""
        kind, number = content[0], content[1]
        if kind == "type":
            return known_type(number)
        if type(number) is not int:
            raise ValueError("no number")
        if kind == "yours":
            return self.objects[number]
        if kind == "class":
            if number not in self.stand_ins:
                self.stand_ins[number] = make_class(self, number, content[2])
            return self.stand_ins[number]
        if kind == "exception":
            return self._remote_exception(content)
        if kind in ("coroutine", "async_generator"):
            self.doubt("the program works asynchronously")
            made = _finish(self, number) if kind == "coroutine" else _finish_each(self, number)
            self._coroutines[id(made)] = (made, number)
            return made
        if kind != "object":
            raise ValueError("no value")
        mirror = self.decode(content[2])
        if not isinstance(mirror, Mirror):
            raise ValueError("no class")
        plain: Any = self._plain(mirror, content[3]) if len(content) > 3 else None
        made = self.stand_ins.get(number)
        if made is None:
            made = self.stand_ins[number] = make_object(mirror, number, plain)
            if mirror.__name__ != "function":
                self.doubt(f"a test works with {article(mirror.__name__)} of the program")
        if isinstance(made, list):
            list.__setitem__(made, slice(None), plain)
        elif isinstance(made, set):
            set.clear(made)
            set.update(made, plain)
        elif isinstance(made, dict):
            base = dictionary_base(made)
            base.clear(made)
            for key, member in plain.items():
                base.__setitem__(made, key, member)
        return made

    def _plain(self, mirror: type, content: Any) -> Any:
        if issubclass(mirror, dict):
            return dict(zip(self._decode_all(content[0]), self._decode_all(content[1]), strict=True))
        if issubclass(mirror, list | set | tuple | frozenset):
            return self._decode_all(content)
        return self.decode(content)

    def _remote_exception(self, content: list[Any]) -> BaseException:
        _, number, shown, arguments, text, lines, name, cause, facts = content
        kind: Any = self.decode(shown)
        if not issubclass(kind, BaseException):
            raise ValueError("no exception")
        parts = [self.decode(part) for part in arguments]
        if number in self.stand_ins:
            error: BaseException = self.stand_ins[number]
        else:
            error = self._made_exception(kind, parts)
            self.stand_ins[number] = error
        if not is_mirror(kind):
            for key, value in facts.items():
                with contextlib.suppress(AttributeError, TypeError):
                    setattr(error, str(key), self.decode(value))
        object.__setattr__(error, "_number_", number)
        object.__setattr__(error, "remote", (str(name), str(text), [int(line) for line in lines][:1]))
        if cause is not None:
            error.__cause__ = self._remote_exception(cause)
        return error

    def _made_exception(self, kind: Any, parts: list[Any]) -> BaseException:
        try:
            made: BaseException = kind.__new__(kind, *parts) if is_mirror(kind) else kind(*parts)
        except TypeError:  # Its arguments are not what it was made of.
            self.doubt(f"the exception {kind.__name__} cannot be made again")
            made = kind.__new__(kind, *parts)
        return made

    def adopt(self, made: Any, better: Any) -> Any:
        """Use a class that a test made as the stand-in for what the program made of it."""
        self.stand_ins[made._number_] = better
        return better

    # --------------------------------------------------------------------------------------------------------- calls
    def call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call something of the program."""
        if self.overtime:
            raise OvertimeError
        try:
            with self._lock:
                return super().call(function, *arguments, **named)
        except StopIteration as error:
            # Elsewhere it would end a loop of the test.
            if function in ("special", "method") and arguments[1] == "__next__":
                raise
            raise RuntimeError("the program raised StopIteration") from error
        except Exception:
            self.raised += 1
            raise

    def call_function(self, name: str, function: Any, *arguments: Any, **named: Any) -> Any:
        """Call a function of the program, and keep what was called and what came of it in words."""
        first = 2 if function == "method" else 0
        given = [shown(argument) for argument in arguments[first:]]
        given += [f"{key}={shown(value)}" for key, value in named.items()]
        result = self.call(function, *arguments, **named)
        self.last = f"{name}({', '.join(given)}) returned {shown(result)}"
        return result


async def _finish(peer: Observer, number: int) -> Any:
    return peer.call("finish", _Known(number))


async def _finish_each(peer: Observer, number: int) -> Any:
    while True:
        try:
            item = peer.call("finish_next", _Known(number))
        except StopAsyncIteration:
            return
        yield item


class _Known:
    """An object of the program by its number alone."""

    def __init__(self, number: int) -> None:
        self.number = number


def _is_asynchronous(value: Any) -> bool:
    code = getattr(value, "__code__", None)
    return isinstance(code, types.CodeType) and bool(code.co_flags & 0x280)  # Coroutine, asynchronous generator.
