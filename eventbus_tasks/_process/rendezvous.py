"""Where others find a task that runs: the guardian's side of its rendezvous.

The socket is made by the host, in a directory that only its user can enter, and handed over, so
that nothing here has to know where things are. Whoever comes is asked for the kernel's word on
who they are: this user, or root. A visitor can learn what runs, stop it, wait for its end, read
its output; and a new host can take it over once the old one has died.

Nothing here waits. A visitor who does not read gets no answer, and delays nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

__all__ = ["Owner", "Rendezvous", "hand_over"]

_MAX_VISITORS: Final = 64
"""Connections at a time, so that descriptors remain for the task. Who waits for the end may stay;
of the others the oldest has to leave for a new one."""

_REQUEST: Final = 4096
_CREDENTIALS: Final = struct.Struct("3i")


class Owner(Protocol):
    """What the rendezvous asks of its guardian."""

    def describe(self) -> dict[str, Any]:
        """Say what runs, and how it is doing."""

    def request_stop(self, *, now: bool) -> None:
        """Begin to end the task."""

    def logs(self) -> Mapping[str, int]:
        """Return the descriptors of the logs."""

    def adopt(self, connection: socket.socket, host: int, who: Mapping[str, Any]) -> str | None:
        """Take a new host, or say why not."""


class Rendezvous:
    """A listening socket and those who came."""

    def __init__(self, listener: int, path: str, owner: Owner) -> None:
        """Take over the listening socket, which has the name `path`."""
        self._listener = listener
        self._path = path
        self._owner = owner
        self._visitors: dict[int, socket.socket] = {}
        self._watching: set[int] = set()

    def numbers(self) -> list[int]:
        """Return every descriptor that may have something to read."""
        return [self._listener, *self._visitors]

    def serve(self, descriptor: int) -> None:
        """Deal with what has come by one descriptor."""
        if descriptor == self._listener:
            self._accept()
        elif descriptor in self._visitors:
            self._receive(descriptor, self._visitors[descriptor])

    def _accept(self) -> None:
        # An object for each call: most tasks get no visit, and need none.
        listener = socket.socket(fileno=self._listener)
        listener.setblocking(False)
        try:
            while True:
                visitor, _ = listener.accept()
                visitor.setblocking(False)
                if _is_welcome(visitor) and self._make_room():
                    self._visitors[visitor.fileno()] = visitor
                else:
                    visitor.close()
        except OSError:
            return  # nobody more, or no descriptors left: they may come again
        finally:
            listener.detach()

    def _make_room(self) -> bool:
        if len(self._visitors) < _MAX_VISITORS:
            return True
        for number in self._visitors:
            if number not in self._watching:
                self._dismiss(number)
                return True
        return False

    def _receive(self, number: int, visitor: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            data, descriptors, _, _ = socket.recv_fds(visitor, _REQUEST, 1, socket.MSG_CMSG_CLOEXEC)
            request = json.loads(data) if data else None
        except BlockingIOError:
            return
        except (OSError, ValueError):
            request = None
        try:
            if isinstance(request, dict):
                self._answer(number, visitor, request, descriptors)
            else:
                self._dismiss(number)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _answer(
        self,
        number: int,
        visitor: socket.socket,
        request: Mapping[str, Any],
        descriptors: list[int],
    ) -> None:
        match request.get("ask"):
            case "who":
                self._send(number, visitor, self._owner.describe())
            case "stop":
                self._owner.request_stop(now=request.get("now") is True)
                self._send(number, visitor, {"answer": "stopping"})
            case "watch":
                self._watching.add(number)
                self._send(number, visitor, {"answer": "watching"})
            case "logs":
                self._send_logs(number, visitor)
            case "attach" if descriptors:
                host = descriptors.pop()
                who = request.get("host")
                problem = self._owner.adopt(visitor, host, who if isinstance(who, dict) else {})
                if problem is None:
                    # From here on this is the connection to the host.
                    self._visitors.pop(number, None)
                    self._watching.discard(number)
                else:
                    os.close(host)
                    self._send(number, visitor, {"answer": "refused", "why": problem})
            case _:
                self._send(number, visitor, {"answer": "unknown"})

    def _send_logs(self, number: int, visitor: socket.socket) -> None:
        try:
            with _readable(self._owner.logs()) as logs:
                _send_answer(visitor, {"answer": "logs", "logs": list(logs)}, list(logs.values()))
        except OSError:
            self._dismiss(number)

    def _send(self, number: int, visitor: socket.socket, answer: Mapping[str, Any]) -> None:
        try:
            _send_answer(visitor, answer)
        except OSError:
            self._dismiss(number)

    def _dismiss(self, number: int) -> None:
        self._watching.discard(number)
        visitor = self._visitors.pop(number, None)
        if visitor is not None:
            visitor.close()

    def tell(self, packet: bytes) -> None:
        """Send a packet to everybody who waits for the end."""
        for number in tuple(self._watching):
            try:
                self._visitors[number].send(packet)
            except OSError:
                self._dismiss(number)

    def close(self) -> None:
        """Take the name away: nobody shall come any more. Visitors see the end with ours."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(self._listener)


def hand_over(
    connection: socket.socket,
    facts: Mapping[str, Any],
    logs: Mapping[str, int],
    others: Mapping[str, int],
) -> str | None:
    """Give a new host everything it needs, and make the connection fit for it.

    Args:
        connection: The connection to it.
        facts: What there is to say.
        logs: The logs; it gets descriptors that can only read.
        others: Descriptors that it gets as they are.

    Returns:
        What went wrong, or ``None``.
    """
    try:
        with _readable(logs) as opened:
            given = {**opened, **others}
            answer = {"answer": "attached", "facts": facts, "descriptors": list(given)}
            _send_answer(connection, answer, list(given.values()))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    except OSError as error:
        return str(error)
    return None


@contextlib.contextmanager
def _readable(logs: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Open logs once more, with offsets and access of their own; they need no names."""
    with contextlib.ExitStack() as closing:
        opened: dict[str, int] = {}
        for stream, log in logs.items():
            opened[stream] = os.open(f"/proc/self/fd/{log}", os.O_RDONLY | os.O_CLOEXEC)
            closing.callback(os.close, opened[stream])
        yield opened


def _send_answer(
    connection: socket.socket, answer: Mapping[str, Any], descriptors: Sequence[int] = ()
) -> None:
    data = json.dumps(answer, separators=(",", ":")).encode()
    socket.send_fds(connection, [data], descriptors)


def _is_welcome(visitor: socket.socket) -> bool:
    """Whether the other side is this user, or root; the kernel says so, not they."""
    try:
        data = visitor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return False
    return _CREDENTIALS.unpack(data)[1] in (0, os.geteuid())
