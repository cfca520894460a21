"""HTTP with a vLLM server: JSON in and out, patience with limits, and never a wait without end."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from lit_sdpo.errors import UserError

WHERE = "rollout.engine.url"
#: What a server or a proxy in front of it answers while it cannot serve yet or just now.
BUSY = (429, 502, 503, 504)
#: Seconds to wait for a connection.
CONNECT = 10.0
RESUME = "look into the server's log, start it again and go on with --ckpt_path last"


class RefusedError(Exception):
    """The server has answered that it cannot or will not.

    Attributes:
        status: Of HTTP.
        text: What the server said, shortened.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text}")
        self.status, self.text = status, text


class Client:
    """One server. Threads may share it.

    Args:
        url: Such as ``http://127.0.0.1:8000``.
        timeout: Seconds that an answer may take.
        patience: Seconds that the server may be unreachable before it counts as gone.

    Raises:
        UserError: The URL is none, or the server is gone or silent.

    Example:
        >>> Client("127.0.0.1:8000", timeout=1.0, patience=0.0)
        Traceback (most recent call last):
        lit_sdpo.errors.UserError: rollout.engine.url: '127.0.0.1:8000' is no address of a server. Give http://HOST:PORT.
    """

    def __init__(self, url: str, *, timeout: float, patience: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is no address of a server", where=WHERE, fix="give http://HOST:PORT")
        self.url, self.timeout, self.patience = url.rstrip("/"), timeout, patience
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._root = parts.hostname, parts.port, parts.path.rstrip("/")
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def get(self, path: str) -> Any:
        """The JSON that the server gives; see :meth:`post`."""
        return self._persist("GET", path, None)

    def post(self, path: str, body: Any = None) -> Any:
        """Send JSON and return the JSON of the answer, ``None`` for an empty one.

        A server that cannot be reached or is busy is asked again after growing pauses, until the patience ends.

        Raises:
            RefusedError: The server says no.
            UserError: It is gone, or does not answer in time.
        """
        return self._persist("POST", path, body)

    def interrupt(self) -> None:
        """End what is under way in other threads; the server then drops those requests."""
        self._stopped.set()
        with self._lock:
            for connection in self._open:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def ready(self) -> None:
        """Take requests again after :meth:`interrupt`."""
        self._stopped.clear()

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """Inside, for the way out of a run: a minute for an answer, and no patience with a server that is gone."""
        usual = self.timeout, self.patience
        self.timeout, self.patience = min(self.timeout, 60.0), 0.0
        try:
            yield
        finally:
            self.timeout, self.patience = usual

    def _persist(self, verb: str, path: str, body: Any) -> Any:
        failed_at: float | None = None
        pause = 0.1
        while True:
            try:
                return self._ask(verb, path, body)
            except TimeoutError as error:
                text = f"the vLLM server at {self.url} has not answered {path} within {self.timeout:g} s"
                raise UserError(text, where=WHERE, fix=f"raise the engine's timeout, or {RESUME}") from error
            except (OSError, http.client.HTTPException, RefusedError) as error:
                if isinstance(error, RefusedError) and error.status not in BUSY:
                    raise
                now = time.monotonic()
                failed_at = failed_at or now
                if self._stopped.is_set() or now + pause > failed_at + self.patience:
                    reason = str(error) or type(error).__name__
                    text = f"the vLLM server at {self.url} cannot be reached ({reason}; tried for {self.patience:g} s)"
                    raise UserError(text, where=WHERE, fix=RESUME) from error
            self._stopped.wait(pause)
            pause = min(2 * pause, 5.0)

    def _ask(self, verb: str, path: str, body: Any) -> Any:
        connection = self._kind(self._host, self._port, timeout=min(CONNECT, self.timeout))
        with self._lock:
            self._open.add(connection)
        try:
            try:
                connection.connect()
            except TimeoutError as error:
                raise ConnectionError(f"no connection within {connection.timeout:g} s") from error
            if self._stopped.is_set():  # before interrupt() could see the connection
                raise ConnectionError("interrupted")
            connection.sock.settimeout(self.timeout)
            data = None if body is None else json.dumps(body)
            connection.request(verb, self._root + path, data, {"Content-Type": "application/json"})
            with connection.getresponse() as answer:  # It holds the socket of HTTP/1.0 itself.
                text = answer.read().decode()
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()
        if answer.status >= 300:
            raise RefusedError(answer.status, " ".join(text.split())[:300])
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise RefusedError(answer.status, f"no JSON: {text[:100]!r}") from error
