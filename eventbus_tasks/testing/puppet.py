"""`Puppet`: a real process that does one thing at a time, exactly when a test says so.

A child that runs freely makes a test depend on who is quicker. A puppet waits to be told, and
every call here returns after it has been done::

    with Puppet(directory) as puppet:
        task = await engine.spawn_task("p", argv=puppet.argv, project_dir=project)
        await puppet.connected()
        puppet.say("hello\\n")
        child = puppet.spawn(session=True)
        puppet.exit(3)
        assert (await task.wait()).return_code == 3
        assert not puppet.living()
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio

from eventbus_tasks.testing import _puppet_program
from eventbus_tasks.testing.processes import Identity, living, wait_until_gone

__all__ = ["PATIENCE", "Puppet", "PuppetGoneError"]

PATIENCE: Final = 30.0
"""Seconds after which a puppet that does not answer is taken for dead: guards against a hang."""


class PuppetGoneError(AssertionError):
    """The puppet has ended, or was never started, and cannot do what it was told."""


class Puppet:
    """A process that a test drives step by step.

    Use `argv` as the command of a task, wait for `connected` (or `connect`, which blocks), then
    tell it what to do. Orders block the calling thread for the moment that they take; they may
    be given on an event loop, because the puppet needs nothing from it.

    Args:
        directory: Where its socket is made; a short path, or ``None`` for a private one.

    Attributes:
        book: Everybody that the puppet has started, itself first: the truth, whatever session,
            parent or environment they have by now.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.book: list[Identity] = []
        # A socket's path has 107 bytes; the directories of tests are often longer.
        self._directory = Path(tempfile.mkdtemp(prefix="ebt-puppet-", dir=directory))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._directory / "s"))
        self._listener.listen(1)
        self._listener.setblocking(False)
        self._connection: socket.socket | None = None
        self._received = b""

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that starts it."""
        program = str(Path(_puppet_program.__file__).resolve())
        return (sys.executable, "-I", "-S", program, str(self._directory / "s"))

    @property
    def identity(self) -> Identity:
        """Who it is.

        Raises:
            PuppetGoneError: It has not connected yet.
        """
        if not self.book:
            raise PuppetGoneError("the puppet was not started yet")
        return self.book[0]

    @property
    def is_connected(self) -> bool:
        """Whether it waits for orders."""
        return self._connection is not None

    # -- start ---------------------------------------------------------------------------------

    async def connected(self, patience: float = PATIENCE) -> Identity:
        """Wait until it runs and return who it is.

        Args:
            patience: Seconds after which it is given up: guards against a hang.

        Raises:
            TimeoutError: It was not started by then.
        """
        with anyio.fail_after(patience):
            await anyio.wait_readable(self._listener)
        return self._accept()

    def connect(self) -> Identity:
        """Wait until it runs and return who it is; blocks, so not on its engine's loop.

        Raises:
            TimeoutError: It was not started within `PATIENCE`.
        """
        if not select.select([self._listener], [], [], PATIENCE)[0]:
            raise TimeoutError("the puppet was not started")
        return self._accept()

    def _accept(self) -> Identity:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        if self._connection is not None:
            self._connection.close()
        self._connection, self._received = connection, b""
        who = Identity(*self._answer()["me"])
        self.book.insert(0, who)
        return who

    # -- orders --------------------------------------------------------------------------------

    def say(self, text: str | bytes, *, stream: str = "stdout", times: int = 1) -> int:
        """Have it write, all of it, and return how many bytes that were.

        Args:
            text: What; a string is written as UTF-8. No line ending is added.
            stream: ``"stdout"`` or ``"stderr"``.
            times: How often, at once.
        """
        data = text.encode() if isinstance(text, str) else text
        encoded = base64.b64encode(data).decode()
        return int(self.order("say", data=encoded, stream=stream, times=times))

    def ignore(self, *signals: int) -> None:
        """Have it ignore these signals from now on, and so will what it spawns."""
        self.order("ignore", signals=[int(number) for number in signals])

    def close_output(self, *streams: str) -> None:
        """Have it close its output (both streams when none is named) and live on."""
        self.order("close", streams=list(streams or ("stdout", "stderr")))

    def spawn(
        self,
        *,
        session: bool = False,
        daemon: bool = False,
        wipe_environment: bool = False,
        ignore: Iterable[int] = (),
        hold_output: bool = True,
    ) -> Identity:
        """Have it start a process that only sleeps; return who that is.

        Args:
            session: In a session, and so in a process group, of its own.
            daemon: Forked twice, so that its parent is gone, in a session of its own.
            wipe_environment: With an empty environment, as after ``env -i``.
            ignore: Signals that it ignores.
            hold_output: It keeps the output of the puppet open.
        """
        sleeper = shutil.which("sleep") or "/bin/sleep"
        found = self.order(
            "spawn",
            session=session,
            daemon=daemon,
            wipe=wipe_environment,
            ignore=[int(number) for number in ignore],
            hold_output=hold_output,
            sleeper=[sleeper, "100000"],
        )
        if len(found) != 1:
            raise PuppetGoneError(f"the puppet started {len(found)} processes instead of one")
        who = Identity(*found[0])
        self.book.append(who)
        return who

    def read_stdin(self, size: int | None = None) -> bytes:
        """Have it read its standard input, `size` bytes of it or all, and return that."""
        return base64.b64decode(self.order("read_stdin", size=size))

    def describe(self) -> dict[str, Any]:
        """Return its surroundings: ``cwd``, ``env``, ``umask``, ``session``, open ``fds``."""
        found: dict[str, Any] = self.order("describe")
        return found

    def exit(self, code: int = 0) -> None:
        """Have it exit with this status; returns once it has."""
        self._last_order("exit", code=code)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Have it end itself by a signal; returns once it has."""
        self._last_order("kill", signal=int(number))

    def stop(self) -> None:
        """Have it stopped, as by Ctrl-Z; returns once it is."""
        who = self.identity
        who.kill(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while not who.is_stopped:
            if time.monotonic() > deadline or not who.is_alive:
                raise PuppetGoneError("the puppet could not be stopped")
            time.sleep(0.001)

    def order(self, action: str, **details: Any) -> Any:
        """Give an order and return the answer.

        Raises:
            PuppetGoneError: It has ended, or was not started.
            OSError: It could not do it.
        """
        self._send(action, details)
        answer = self._answer()
        if "error" in answer:
            raise OSError(answer["error"])
        return answer["done"]

    def _last_order(self, action: str, **details: Any) -> None:
        self._send(action, details)
        connection = self._connection
        assert connection is not None
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass
        self._connection = None
        connection.close()

    def _send(self, action: str, details: dict[str, Any]) -> None:
        if self._connection is None:
            raise PuppetGoneError(f"the puppet is not there to {action}")
        order = json.dumps({"do": action, **details}).encode() + b"\n"
        try:
            self._connection.sendall(order)
        except ConnectionError as error:
            raise PuppetGoneError(f"the puppet has ended before it could {action}") from error

    def _answer(self) -> dict[str, Any]:
        assert self._connection is not None
        while b"\n" not in self._received:
            try:
                data = self._connection.recv(1 << 20)
            except ConnectionError:
                data = b""
            if not data:
                raise PuppetGoneError("the puppet has ended before it could answer")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    # -- the end -------------------------------------------------------------------------------

    def living(self) -> Sequence[Identity]:
        """Return who of the book still runs."""
        return living(self.book)

    def wait_until_gone(self, timeout: float = PATIENCE) -> None:
        """Wait until everybody of the book has gone; blocks.

        Raises:
            AssertionError: Somebody is left after `timeout` seconds.
        """
        wait_until_gone(self.book, timeout)

    def close(self) -> None:
        """End the puppet and whatever is left of it, and remove its socket."""
        for who in self.book:
            who.kill()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._listener.close()
        for path in self._directory.iterdir():
            path.unlink()
        with contextlib.suppress(OSError):
            os.rmdir(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
