"""Messages between two processes that do not trust each other.

Messages from a program are JSON, so nothing of it is ever unpickled; messages to it, from a side it may trust, are in
the format of ``marshal``, because importing ``json`` takes a program longer than to run.
"""

from __future__ import annotations

import marshal
from _json import encode_basestring_ascii, make_encoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

#: Bytes of the longest message, and letters of what is shown of a text.
LONGEST = 64 << 20
SHORT = 300


def _refuse(value: Any) -> Any:
    raise ValueError(f"a {type(value).__name__} is no part of a message")


_encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, True)


def send(connection: _socket.socket, message: Any) -> None:
    """Send one message as JSON."""
    send_bytes(connection, "".join(_encode(message, 0)).encode())


def receive(connection: _socket.socket) -> Any:
    """The next message as JSON.

    Raises:
        EOFError: If the other side is gone.
        ValueError: If what came is no message.
    """
    return parse(receive_bytes(connection))


def parse(data: bytes) -> Any:
    """The message in ``data``; ``ValueError`` if it is none."""
    import json

    try:
        return json.loads(data)
    except (RecursionError, MemoryError) as error:
        raise ValueError("no message") from error


def send_to_program(connection: _socket.socket, message: Any) -> int:
    """Send one message to a program; its length in bytes."""
    data = marshal.dumps(message)
    send_bytes(connection, data)
    return len(data)


def receive_in_program(connection: _socket.socket) -> Any:
    """The next message, in the program; ``EOFError`` if the other side is gone."""
    return marshal.loads(receive_bytes(connection))


def send_bytes(connection: _socket.socket, data: bytes) -> None:
    """Send data behind its length."""
    if len(data) > LONGEST:
        raise ValueError("a message is too long")
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
