"""Messages and values between two processes that do not trust each other.

A value travels as data with a type name in front, so nothing is ever unpickled; what is no data stays where it is and
is known by a number on the other side. Messages from a program are JSON; messages to it, from a side it may trust, are
in the format of ``marshal``, because importing ``json`` takes a program longer than to run.
"""

from __future__ import annotations

import builtins
import marshal
from _json import encode_basestring_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Mapping
    from typing import Any

LONGEST = 16 << 20
DEEPEST = 100
SHORT = 300

#: What can be done to an object of the other side: functions of ``operator``, and built-in functions.
OPERATORS = (
    "add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift neg pos invert eq lt le gt ge getitem"
    " setitem delitem contains iadd isub imul"
)
FUNCTIONS = "getattr setattr delattr len iter next reversed str repr bool int float abs round"


def send(connection: _socket.socket, message: Any) -> None:
    """Send one message as JSON."""
    send_bytes(connection, _json(message).encode())


def receive(connection: _socket.socket) -> Any:
    """The next message as JSON.

    Raises:
        EOFError: If the other side is gone.
        ValueError: If what came is no message.
    """
    import json

    return json.loads(receive_bytes(connection))


def send_to_program(connection: _socket.socket, message: Any) -> None:
    """Send one message to a program."""
    send_bytes(connection, marshal.dumps(message))


def receive_in_program(connection: _socket.socket) -> Any:
    """The next message, in the program; ``EOFError`` if the other side is gone."""
    return marshal.loads(receive_bytes(connection))


def _json(message: Any) -> str:
    if isinstance(message, str):
        return encode_basestring_ascii(message)
    if isinstance(message, list):
        return f"[{','.join([_json(item) for item in message])}]"
    if isinstance(message, dict):
        return f"{{{','.join([f'{_json(key)}:{_json(value)}' for key, value in message.items()])}}}"
    return {None: "null", True: "true", False: "false"}[message] if not _is_int(message) else int.__repr__(message)


def _is_int(message: Any) -> bool:
    return isinstance(message, int) and not isinstance(message, bool)


def send_bytes(connection: _socket.socket, data: bytes) -> None:
    """Send data behind its length."""
    connection.sendall(len(data).to_bytes(8, "big") + data)


def receive_bytes(connection: _socket.socket) -> bytes:
    """The data of the next message."""
    length = int.from_bytes(_exactly(connection, 8), "big")
    if length > LONGEST:
        raise ValueError("a message is too long")
    return _exactly(connection, length)


def _exactly(connection: _socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


_TYPES = {name: kind for name, kind in vars(builtins).items() if isinstance(kind, type)}
_READERS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: x if x is None else bool(x),
    "int": lambda x: int(x, 16),
    "float": float.fromhex,
    "complex": lambda x: complex(*map(float.fromhex, x)),
    "str": str,
    "bytes": bytes.fromhex,
    "Decimal": lambda x: __import__("decimal").Decimal(x),
    "Fraction": lambda x: __import__("fractions").Fraction(*(int(part, 16) for part in x)),
    "type": lambda x: _TYPES[x],
    "range": lambda x: range(*(int(part, 16) for part in x)),
}
_MANY: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class RemoteError(Exception):
    """Something else than a built-in exception was raised on the other side."""


class RemoteExit(BaseException):
    """The other side asked to end the program, as ``sys.exit`` does."""


class UnsupportedError(BaseException):
    """A test hands an object to the program that cannot travel."""


class Peer:
    """One end of a connection: calls what the other end has, and answers its calls.

    Args:
        connection: The stream between the two.
        operations: What the other end may call by name.
        wrap: Makes a stand-in, from this peer, a number and a type name, for an object of the other end.
        program: Whether this is the end of the program. Then any object may be known to the other end, else only
            functions.
    """

    def __init__(
        self,
        connection: _socket.socket,
        operations: Mapping[str, Callable[..., Any]],
        wrap: Callable[[Peer, int, str], Any],
        *,
        program: bool,
    ) -> None:
        self.connection, self.operations, self.wrap, self.program = connection, operations, wrap, program
        self.objects: list[Any] = []

    # -------------------------------------------------------------------------------------------------------- values
    def encode(self, value: Any, depth: int = 0) -> list[Any]:
        """The value as data. Subclasses of plain types travel as what they extend, without their methods."""
        if value is None or isinstance(value, bool):
            return ["plain", value]
        if isinstance(value, int):
            return ["int", hex(int.__index__(value))]
        if isinstance(value, float):
            return ["float", float.hex(value)]
        if isinstance(value, complex):
            return ["complex", [float.hex(value.real), float.hex(value.imag)]]
        if isinstance(value, str):
            return ["str", str.__str__(value)]
        if isinstance(value, bytes):
            return ["bytes", bytes.hex(value)]
        if type(value).__name__ == "Decimal" and type(value).__module__ == "decimal":
            return ["Decimal", str(value)]
        if type(value).__name__ == "Fraction" and type(value).__module__ == "fractions":
            return ["Fraction", [hex(value.numerator), hex(value.denominator)]]
        if isinstance(value, type) and _TYPES.get(value.__name__) is value:
            return ["type", value.__name__]
        if isinstance(value, range):
            return ["range", [hex(part) for part in (value.start, value.stop, value.step)]]
        if depth < DEEPEST:
            for name, kind in _MANY.items():
                if isinstance(value, kind):
                    members = [self.encode(item, depth + 1) for item in kind.__iter__(value)]  # type: ignore[attr-defined]
                    return [name, sorted(members, key=repr) if "set" in name else members]
            if isinstance(value, dict):
                items = dict.items(value)
                return ["dict", [[self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in items]]
        remote = getattr(type(value), "_number_", None)
        if remote is not None:
            return ["yours", remote.__get__(value)]
        if not self.program and not callable(value):
            raise UnsupportedError(f"a test cannot hand a {type(value).__name__} to the program")
        self.objects.append(value)
        return ["object", len(self.objects) - 1, type(value).__name__[:SHORT]]

    def decode(self, content: Any) -> Any:
        """The value of some data."""
        kind, data = content[0], content[1]
        if kind in _READERS:
            return _READERS[kind](data)
        if kind in _MANY:
            return _MANY[kind](self.decode(item) for item in data)
        if kind == "dict":
            return {self.decode(key): self.decode(value) for key, value in data}
        return self.objects[data] if kind == "yours" else self.wrap(self, int(data), str(content[2]))

    # --------------------------------------------------------------------------------------------------------- calls
    def _send(self, message: Any) -> None:
        (send if self.program else send_to_program)(self.connection, message)

    def _receive(self) -> Any:
        return (receive_in_program if self.program else receive)(self.connection)

    def call(self, function: str | int, *arguments: Any, **named: Any) -> Any:
        """Call an operation or object of the other end; lists, dicts and sets that it changed are changed here too.

        Raises:
            EOFError: If the other end is gone, or what it says makes no sense.
            BaseException: What the call raised, as the built-in exception of that name where there is one.
        """
        sent = [self.encode(argument) for argument in arguments]
        self._send(["call", function, sent, {name: self.encode(value) for name, value in named.items()}])
        try:
            while (reply := self._receive())[0] == "call":
                self.answer(reply)
            if reply[0] == "value":
                for place, content in reply[2]:
                    _replace(arguments[place], self.decode(content))
                return self.decode(reply[1])
            error = _exception(*reply[1:])
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError) as nonsense:
            raise EOFError from nonsense
        raise error

    def answer(self, message: Any) -> None:
        """Do one call for the other end and send what came of it."""
        _, function, sent, named = message
        try:
            arguments = [self.decode(content) for content in sent]
            target = self.operations[function] if isinstance(function, str) else self.objects[function]
            result = self.encode(target(*arguments, **{key: self.decode(value) for key, value in named.items()}))
            changed = []
            for place, (argument, content) in enumerate(zip(arguments, sent, strict=True)):
                if isinstance(argument, list | dict | set) and (now := self.encode(argument)) != content:
                    changed.append([place, now])
            reply = ["value", result, changed]
        except BaseException as error:
            reply = ["error", [kind.__name__ for kind in type(error).__mro__], _text(error), _lines(error)]
        self._send(reply)


def _replace(old: Any, new: Any) -> None:
    """Give a list, dict or set the content of another."""
    if isinstance(old, list):
        old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:SHORT]
    except BaseException:
        return ""


def _lines(error: BaseException) -> list[int]:
    """The lines of the program that the error came through, innermost last."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<program>":
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == "<program>" and error.lineno:
        lines.append(error.lineno)
    return lines[-1:]


def _exception(names: list[str], text: str, lines: list[int]) -> BaseException:
    """An exception with the text and the attribute ``remote``: type name, text and line."""
    kinds = [getattr(builtins, name, None) for name in names]
    known = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)]
    kind = known[0] if known and known[0] is not Exception else RemoteError
    if "Exception" not in names:
        kind = RemoteExit  # type: ignore[assignment]
    try:
        error: BaseException = kind(text)
    except TypeError:  # Some built-in exceptions need more than a text.
        error = RemoteError(text)
    error.remote = (str(names[0])[:SHORT], str(text)[:SHORT], [int(line) for line in lines][:1])  # type: ignore[attr-defined]
    return error
