"""`FakeModelAPI`: a model API on loopback that does what the prompt says, and keeps count.

Threads and sockets only, so it works beside any event loop, and also while that is blocked.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, cast

from eventbus_tasks.testing.agents.anthropic import AnthropicMessages
from eventbus_tasks.testing.agents.gemini import GeminiGenerateContent
from eventbus_tasks.testing.agents.openai import OpenAIChat, OpenAIResponses
from eventbus_tasks.testing.agents.scenarios import (
    Conversation,
    Dialect,
    Failure,
    Silence,
    TextReply,
    reply_to,
)

__all__ = ["Exchange", "FakeModelAPI"]

PATIENCE: Final = 30.0
"""Seconds after which what does not happen is given up: guards against a hang."""


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request for the model, and what became of it.

    Attributes:
        path: The path of the request, without its query.
        headers: Its headers, with names in lower case.
        body: Its JSON.
        conversation: What it says.
        status: The HTTP status of the answer; 0 before there is one.
        state: ``"open"`` while the client waits or reads; then ``"complete"``, or ``"cut"`` when
            one of the two sides left before the end.
    """

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    conversation: Conversation
    status: int = 0
    state: Literal["open", "complete", "cut"] = "open"

    @property
    def prompt(self) -> str:
        """The last thing that the user said."""
        return self.conversation.prompts[-1] if self.conversation.prompts else ""


class FakeModelAPI:
    """A model API on 127.0.0.1, at a port that the system chooses.

    A context manager; it may be used from any thread. The prompt says what the model does, see
    `eventbus_tasks.testing.agents.scenarios`.

    Args:
        dialects: What it speaks; all paths together. Default: every dialect that is known here.
        key: The API key that it wants; others are refused with 401. Default: any will do.

    Attributes:
        url: Where it is, without a slash at the end.
    """

    def __init__(
        self, dialects: Sequence[Dialect] | None = None, *, key: str | None = None
    ) -> None:
        if dialects is None:
            dialects = (
                AnthropicMessages(),
                OpenAIResponses(),
                OpenAIChat(),
                GeminiGenerateContent(),
            )
        self._dialects = tuple(dialects)
        self._key = key
        self._changed = threading.Condition()
        self._exchanges: list[Exchange] = []
        self._failures: Counter[str] = Counter()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url: str = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, name="fake model API", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return the API, which serves already."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Cut every connection and wait for its thread; does nothing the second time."""
        with self._changed:
            self._closing = True
            connections = dict(self._connections)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the one that accepts
        self._thread.join()
        self._listener.close()
        for connection, thread in connections.items():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    # -- what has happened ---------------------------------------------------------------------

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Every request for the model so far, in order of arrival."""
        with self._changed:
            return tuple(self._exchanges)

    @property
    def open_exchanges(self) -> tuple[Exchange, ...]:
        """Requests whose client is still waiting or reading."""
        return tuple(exchange for exchange in self.exchanges if exchange.state == "open")

    @property
    def open_connections(self) -> int:
        """How many clients hold a connection, idle ones included."""
        with self._changed:
            return len(self._connections)

    def wait_until(self, condition: Callable[[Self], bool], timeout: float = PATIENCE) -> None:
        """Wait until something is true of this API; blocks.

        Args:
            condition: Is asked whenever something has changed.
            timeout: Seconds after which it is given up.

        Raises:
            AssertionError: It did not become true: says what was asked of the API.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition(self):
                left = deadline - time.monotonic()
                if left <= 0:
                    seen = [(one.status, one.state, one.prompt[:80]) for one in self._exchanges]
                    held = len(self._connections)
                    raise AssertionError(f"it did not become true: {seen}, {held} connections")
                self._changed.wait(left)

    def wait_idle(self, timeout: float = PATIENCE) -> None:
        """Wait until nobody holds a connection; blocks.

        Raises:
            AssertionError: Somebody still does.
        """
        self.wait_until(lambda api: not api.open_connections, timeout)

    # -- serving -------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="fake model connection", daemon=True
            )
            with self._changed:
                if self._closing:
                    connection.close()
                    return
                self._connections[connection] = thread
                self._changed.notify_all()
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):  # the client has left
                _Conversing(self, connection)
        finally:
            with self._changed:
                del self._connections[connection]
                self._changed.notify_all()
            connection.close()

    def _dialect(self, path: str) -> Dialect | None:
        return next((dialect for dialect in self._dialects if dialect.serves(path)), None)

    def _begin(self, exchange: Exchange) -> int:
        """Note a request; return how many like it were refused before."""
        with self._changed:
            self._exchanges.append(exchange)
            self._changed.notify_all()
            return self._failures[exchange.prompt]

    def _note(
        self, exchange: Exchange, *, status: int | None = None, state: str | None = None
    ) -> None:
        with self._changed:
            if status is not None:
                exchange.status = status
                if status >= 400:
                    self._failures[exchange.prompt] += 1
            if state is not None:
                exchange.state = cast("Any", state)
            self._changed.notify_all()


class _Conversing(http.server.BaseHTTPRequestHandler):
    """One connection; serves it in its constructor, to the end."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, api: FakeModelAPI, connection: socket.socket) -> None:
        self._api = api
        super().__init__(connection, ("127.0.0.1", 0), cast("Any", None))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer somebody who only wants to know whether there is somebody."""
        self._answer(200, b"")

    def do_GET(self) -> None:
        """Say that there is nothing."""
        self._answer(404, b"{}")

    def do_POST(self) -> None:
        """Be the model."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = self.path.partition("?")[0]
        dialect = self._api._dialect(path)
        if dialect is None:
            self._answer(404, b"{}")
            return
        try:
            data = json.loads(body)
        except ValueError:
            self._answer(400, dialect.error(Failure(status=400, message="no JSON")))
            return
        exchange = Exchange(
            path=path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=data,
            conversation=dialect.read(path, data),
        )
        failures = self._api._begin(exchange)
        try:
            done = self._reply(dialect, exchange, failures)
        except OSError:
            done = False
        self._api._note(exchange, state="complete" if done else "cut")
        if not done:
            self.close_connection = True

    def _reply(self, dialect: Dialect, exchange: Exchange, failures: int) -> bool:
        """Answer; return whether it was to the end."""
        conversation = exchange.conversation
        reply = self._choose(dialect, exchange, failures)
        if isinstance(reply, Silence):
            self._wait(None)
            return False
        if isinstance(reply, Failure):
            self._api._note(exchange, status=reply.status)
            self._answer(reply.status, dialect.error(reply))
            return True
        self._api._note(exchange, status=200)
        ending = reply.ending if isinstance(reply, TextReply) else "complete"
        if conversation.streamed:
            pause = reply.pause if isinstance(reply, TextReply) else 0.0
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for part in dialect.stream(reply, conversation):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                if pause and not self._wait(pause):
                    return False
        if ending != "complete":
            if ending == "stall":
                self._wait(None)
            return False
        if not conversation.streamed:
            self._answer(200, dialect.whole(reply, conversation))
            return True
        self.wfile.write(b"0\r\n\r\n")
        return True

    def _choose(self, dialect: Dialect, exchange: Exchange, failures: int) -> Any:
        key = self._api._key
        if key is not None and not dialect.accepts(exchange.headers, key):
            return Failure(status=401, message="invalid x-api-key")
        try:
            return reply_to(exchange.conversation, failures=failures)
        except ValueError as error:
            return Failure(status=400, message=f"a mistake in the script: {error}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _wait(self, seconds: float | None) -> bool:
        """Wait, for ever if `seconds` is ``None``; return whether the client is still there."""
        poll = select.poll()
        # Also true when `FakeModelAPI.close` has shut the connection down.
        poll.register(self.connection, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        return not poll.poll(None if seconds is None else seconds * 1000)
