"""The host's side: starting a warden, launching guardians and hearing from them.

Everything here but `WardenClient.start` and `WardenClient.reap` belongs to the thread of the
event loop and never waits; what can be waited for is a coroutine of anyio.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import anyio

from eventbus_tasks._process import launch, wire
from eventbus_tasks._process.descriptors import PLACES, close_all
from eventbus_tasks._process.family import is_ending
from eventbus_tasks._process.ladder import Policy
from eventbus_tasks._process.launch import LaunchRequest

__all__ = ["GuardianLink", "WardenClient"]

_Work = Callable[[], Coroutine[Any, Any, object]]

START_TIMEOUT: Final = 30.0
"""Seconds until a warden that does not answer is taken for broken."""

# The real package imports anyio and more; the warden gets an empty one with the same path.
_BOOT: Final = """\
import sys, types
root, *arguments = sys.argv[1:]
for name, path in (("eventbus_tasks", root), ("eventbus_tasks._process", root + "/_process")):
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = [path]
from eventbus_tasks._process.warden import main
main(arguments)
"""

_ENVIRONMENT: Final = {"LD_BIND_NOW": "1"}
"""What a warden has in its environment beside ours, which no program inherits: that the dynamic
linker looks up all functions at the start (ld.so(8)). Else each guardian looks up those that only
a forked child calls."""

_MAX_PIPES: Final = 4
"""Pipes that come with one message: two for each stream."""

_LATER: Final = frozenset(
    (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EINTR)
)
"""A socket that is full, or too many descriptors under way: the warden has to catch up."""


@dataclass(slots=True)
class _Request:
    """A launch that the socket has not taken yet, with copies of its descriptors."""

    packet: bytes
    descriptors: list[int]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


class GuardianLink:
    """The host's end of one guardian.

    The messages of a task come in this order: `Started` or `SpawnFailed`; then any of
    `Stopping`, `SignalSent`, `Dropped` and `LeaderExited`; then `Ended`, or `GuardianLost` when
    the guardian died without it, and `Unswept` when its family resists the warden; and always,
    last and once, `Released`. A task that is stopped before its program ran has no `Started`.
    `WardenLost` can come anywhere in between.
    """

    def __init__(self, task: int, control: socket.socket, bell: int, argv: Sequence[str]) -> None:
        """Wrap the host's ends; made by `WardenClient.launch`."""
        self._task = task
        self._control = control
        self._bell = bell
        self._look = select.poll()
        self._look.register(control, select.POLLIN)
        self._argv = tuple(argv)
        self._extra: deque[wire.Message] = deque()
        self._eof = False
        self._final = False
        self._released = False
        self._warden_lost = False
        self._unsent: deque[bytes] = deque()
        self._closed = False
        self._event: anyio.Event | None = None
        self._forget: Callable[[int], object] = lambda _: None
        self._alert: Callable[[wire.StopAsked], object] = lambda _: None
        self._stopping = False
        self._pipes: list[tuple[str, int]] = []
        _open.add(self)

    @classmethod
    def attached(
        cls, control: socket.socket, bell: int, argv: Sequence[str], pipes: Mapping[str, int]
    ) -> GuardianLink:
        """Wrap the connection to a guardian whose host has died; its warden has nobody to tell.

        `Released` comes with the guardian's end then: whoever needs more has to look.
        """
        link = cls(0, control, bell, argv)
        link._warden_lost = True
        link._pipes.extend(pipes.items())
        return link

    @property
    def pipes(self) -> Sequence[tuple[str, int]]:
        """Pipes in which there may be bytes that a guardian, when it was killed, had not taken.

        Each with its stream, in the order of their bytes; they are there with `Released` or
        `Unswept`, and are the link's.
        """
        return self._pipes

    @property
    def eventfd(self) -> int:
        """Descriptor that becomes readable after new bytes are in a log; read it to reset it."""
        return self._bell

    @property
    def released(self) -> bool:
        """Whether `Released` has been returned by `poll`: nothing more will come."""
        return self._released

    def has_news(self) -> bool:
        """Whether `poll` would find something new: a quick look."""
        if self._closed or self._released:
            return False
        if self._extra or self._unsent:
            return True
        return not self._eof and bool(self._look.poll(0))

    def poll(self) -> list[wire.Message]:
        """Return every message that has arrived, without waiting."""
        if self._closed or self._released:
            return []
        self._flush()
        # What the warden said was said after the guardian's death: its own packets are first.
        extra = list(self._extra)
        self._extra.clear()
        messages: list[wire.Message] = []
        while not self._eof:
            try:
                data = self._control.recv(wire.PACKET)
            except BlockingIOError:
                break
            except ConnectionResetError:
                # The guardian has gone with a request of ours unread. The kernel says so once,
                # before it gives out what the guardian had still to say.
                continue
            except OSError:
                data = b""
            if not data:
                self._eof = True
                break
            with contextlib.suppress(wire.WireError):
                messages.append(self._received(wire.decode(data)))
        for message in extra:
            if isinstance(message, wire.GuardianLost):
                if self._final:
                    continue
                self._final = True
            messages.append(message)
        messages = [message for message in messages if not self._is_known(message)]
        if self._eof and self._warden_lost and not any(isinstance(m, wire.Released) for m in extra):
            # Nobody else is left to say it.
            if not self._final:
                self._final = True
                messages.append(wire.GuardianLost(code=None, at=time.time()))
            messages.append(wire.Released(at=time.time()))
        if messages and isinstance(messages[-1], wire.Released):
            self._released = True
            self._forget(self._task)
        if any(isinstance(m, (wire.Ended, wire.Unswept, wire.Released)) for m in messages):
            self._wake()  # others may wait for what was taken here
        return messages

    def _is_known(self, message: wire.Message) -> bool:
        """Whether guardian and warden both say it: one because it hangs, the other since then."""
        if not isinstance(message, wire.Stopping):
            return False
        known, self._stopping = self._stopping, True
        return known

    def _received(self, message: Any) -> wire.Message:
        if isinstance(message, wire.Started):
            return replace(message, argv=self._argv)
        if isinstance(message, (wire.Ended, wire.SpawnFailed)):
            self._final = True
        return cast("wire.Message", message)

    async def wait_readable(self) -> None:
        """Return when `poll` has, or may have, something; at once after the last message."""
        if self._closed or self._released or self._extra or (self._eof and self._warden_lost):
            await anyio.lowlevel.checkpoint()
            return
        if self._eof:
            # Only the warden has something left to say.
            self._event = anyio.Event()
            await self._event.wait()
            return
        with contextlib.suppress(anyio.ClosedResourceError):
            await anyio.wait_readable(self._control)

    def stop(
        self, reason: str, *, steps: Sequence[Mapping[str, Any]] | None = None, now: bool = False
    ) -> None:
        """Have the task stopped; a second call can only shorten what the first one began.

        Args:
            reason: Becomes the reason of the end, if nothing else was the cause before.
            steps: Rungs to use instead of those of the policy, as in `Step`.
            now: Kill at once.
        """
        if self._closed or self._eof:
            return
        rungs = None if steps is None else tuple(map(dict, steps))
        message = wire.Stop(reason=reason, steps=rungs, now=now)
        self._unsent.append(wire.encode(message))
        self._flush()
        # Should the guardian hang, its warden does it.
        self._alert(wire.StopAsked(task=self._task, reason=reason, steps=rungs, now=now))

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal of the task another size; nothing happens where it has none."""
        if not (self._closed or self._eof):
            self._unsent.append(wire.encode(wire.Resize(columns=columns, lines=lines)))
            self._flush()

    def _flush(self) -> None:
        while self._unsent and not self._eof:
            try:
                self._control.send(self._unsent[0])
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()
                return
            self._unsent.popleft()

    def _wake(self) -> None:
        """Have `wait_readable` return to whoever waits in it; they wait again without harm."""
        _notify_closing(self._control.fileno())
        if self._event is not None:
            self._event.set()

    def _hear(self, message: wire.Message, pipes: Sequence[int] = ()) -> None:
        """Take a message of the warden, or about it."""
        self._extra.append(message)
        if isinstance(message, (wire.Released, wire.Unswept)):
            self._pipes.extend(zip(message.pipes, pipes, strict=False))
        if isinstance(message, wire.WardenLost):
            self._warden_lost = True
        self._wake()  # the guardian's socket may stay silent

    def close(self) -> None:
        """Let go of the guardian; one that still works takes this for the death of its host."""
        if self._closed:
            return
        self._closed = True
        self._forget(self._task)
        if self._event is not None:
            self._event.set()
        for descriptor in (self._control.fileno(), self._bell):
            _notify_closing(descriptor)
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        _open.discard(self)
        self._closed = True
        self._control.close()
        bell, self._bell = self._bell, -1
        close_all((bell, *(pipe for _, pipe in self._pipes)))
        self._pipes.clear()


class WardenClient:
    """A running warden, as the host sees it."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket) -> None:
        """Wrap a started warden; use `start`."""
        self._process = process
        self._socket = connection
        self._links: dict[int, GuardianLink] = {}
        self._queue: deque[_Request] = deque()
        self._next_task = 1
        self._closed = False
        self._lost = False
        self._serving = False
        self._queued: anyio.Event | None = None
        _open.add(self)

    @classmethod
    def start(cls, python: str | None = None, cgroup: str = "off") -> WardenClient:
        """Start a warden and wait until it answers. Blocks: call it in a worker thread.

        A worker thread also because a ``KeyboardInterrupt`` within `subprocess.Popen` loses the
        process, and only the main thread gets one.

        Args:
            python: The interpreter, instead of the one that runs this.
            cgroup: Below which control group tasks get their own; see `cgroup.find_base`.

        Raises:
            OSError: It cannot be started, or it is not a Python that works.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        host = -1
        try:
            host = os.pidfd_open(os.getpid())
            root = str(Path(__file__).resolve().parent.parent)
            numbers = (theirs.fileno(), host)
            process = subprocess.Popen(
                [
                    python or sys.executable,
                    "-I",
                    "-S",
                    "-c",
                    _BOOT,
                    root,
                    *map(str, numbers),
                    cgroup,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={**os.environ, **_ENVIRONMENT},
                pass_fds=numbers,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            if host >= 0:
                os.close(host)
        client = cls(process, ours)
        try:
            ours.settimeout(START_TIMEOUT)
            data = ours.recv(wire.PACKET)
            if not data or not isinstance(wire.decode(data), wire.Ready):
                raise ConnectionError(errno.ECONNRESET, "the interpreter did not start a warden")
        except BaseException as error:
            client.close()
            if not client.reap(1.0):
                process.kill()
                client.reap(None)
            if isinstance(error, (OSError, wire.WireError)):
                program = python or sys.executable
                raise OSError(errno.ENOEXEC, f"no warden came up: {error}", program) from error
            raise
        ours.setblocking(False)
        return client

    @property
    def pid(self) -> int:
        """Number of the warden's process."""
        return self._process.pid

    @property
    def lost(self) -> bool:
        """Whether the warden has gone, or this side has been closed."""
        return self._lost or self._closed

    @property
    def ending(self) -> bool:
        """Whether it was killed, or has ended; the connection shows that a millisecond later.

        Until then it takes requests that nobody will read.
        """
        return is_ending(self.pid)

    def launch(
        self,
        spec: wire.LaunchSpec,
        image: bytes | None = None,
        *,
        stdin: int,
        stdout_log: int,
        stderr_log: int | None = None,
        lock: int | None = None,
        end_record: int | None = None,
        rendezvous: int | None = None,
        arrivals: int | None = None,
    ) -> GuardianLink:
        """Ask for a guardian; never waits. The descriptors stay the caller's.

        Args:
            spec: What to run.
            image: Its `launch.image_of`, if that is there already.
            stdin: Standard input of the program.
            stdout_log: Empty log, open for reading and writing, for standard output.
            stderr_log: The same for standard error, or ``None`` to merge the two.
            lock: A project lock to hold until everything is over.
            end_record: Where the guardian leaves its durable record.
            arrivals: Where the guardian notes in which order output arrives.
            rendezvous: Listening socket at which others find the guardian; its path is in the
                specification.

        Raises:
            OSError: The warden is gone, or there are no descriptors left.
            ValueError: The specification cannot be carried out on any system.
        """
        if self.lost:
            raise BrokenPipeError(errno.EPIPE, "the warden is gone")
        data = spec.encode()
        if image is None:
            image = launch.image_of(spec)
        try:
            policy = Policy.from_dict(spec.policy)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a termination policy: {error}") from error
        task = self._next_task
        streams = ("stdout",) if stderr_log is None else ("stdout", "stderr")
        given = {
            "stdin": stdin,
            "stdout": stdout_log,
            "stderr": stderr_log,
            "lock": lock,
            "end_record": end_record,
            "rendezvous": rendezvous,
            "arrivals": arrivals,
        }
        sent = {name: number for name, number in given.items() if number is not None}
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                ours.setblocking(False)
                with contextlib.suppress(OSError):
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                undo.callback(os.close, bell)
                memory = launch.file_of(data, image)
                try:
                    sent |= {"control": theirs.fileno(), "bell": bell, "spec": memory}
                    request = LaunchRequest(
                        task=task,
                        uid=spec.uid,
                        policy=policy,
                        capture=spec.capture,
                        pty_size=spec.pty_size,
                        nofile=spec.nofile,
                        rendezvous=spec.rendezvous,
                        pipes=streams if spec.capture == "pipe" else (),
                        image=len(data) + 1,
                        descriptors=[PLACES[name] for name in sent],
                    )
                    try:
                        packet = launch.encode(request)
                    except TypeError as error:
                        raise ValueError(str(error)) from error
                    self._send(packet, list(sent.values()))
                finally:
                    os.close(memory)
            undo.pop_all()
        self._next_task += 1
        link = GuardianLink(task, ours, bell, spec.argv)
        link._alert = self._alert
        link._forget = lambda task: self._links.pop(task, None)
        self._links[task] = link
        return link

    def _alert(self, message: wire.StopAsked) -> None:
        if not self.lost:
            with contextlib.suppress(OSError):  # gone: then nobody can stand in for a guardian
                self._send(wire.encode(message), [])

    def _send(self, packet: bytes, descriptors: list[int]) -> None:
        if not self._queue:
            try:
                socket.send_fds(self._socket, [packet], descriptors)
            except OSError as error:
                if error.errno not in _LATER:
                    raise
            else:
                return
        request = _Request(packet, [])
        try:
            # One by one, so that the failing one leaves none of the others open.
            request.descriptors.extend(os.dup(descriptor) for descriptor in descriptors)
        except OSError:
            request.close()
            raise
        self._queue.append(request)
        if self._queued is not None:
            self._queued.set()

    async def serve(self, protect: Callable[[_Work], _Work] = lambda work: work) -> None:
        """Route what the warden says, until it is gone or this side is closed.

        Args:
            protect: Applied to what is started as a task of its own.
        """
        self._serving = True
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(protect(self._flush_queue))
                await self._receive_all()
                group.cancel_scope.cancel()
        finally:
            self._serving = False
            if self._closed:
                self._close_descriptors()
            if self._lost:
                self._lose_all()

    async def _receive_all(self) -> None:
        while not self._closed:
            pipes: list[int] = []
            try:
                data, pipes, _, _ = socket.recv_fds(
                    self._socket, wire.PACKET, _MAX_PIPES, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                try:
                    await anyio.wait_readable(self._socket)
                except anyio.ClosedResourceError:
                    return
                continue
            except ConnectionResetError:
                continue  # said once, before what is still there to be read
            except OSError:
                data = b""
            if not data:
                self._lost = not self._closed
                return
            with contextlib.suppress(wire.WireError):
                task, message = wire.decode_routed(data)
                if link := self._links.get(task):
                    link._hear(message, pipes)
                else:
                    close_all(pipes)

    async def _flush_queue(self) -> None:
        while True:
            if not self._queue:
                self._queued = anyio.Event()
                await self._queued.wait()
            try:
                await anyio.wait_writable(self._socket)
            except anyio.ClosedResourceError:
                return
            try:
                while self._queue:
                    request = self._queue[0]
                    socket.send_fds(self._socket, [request.packet], request.descriptors)
                    request.close()
                    self._queue.popleft()
            except OSError as error:
                if error.errno not in _LATER:
                    return  # the reading side finds out, too
                # Writable for the kernel, yet too full for this packet.
                await anyio.sleep(0.005)

    def _lose_all(self) -> None:
        self._drop_queue()
        for link in list(self._links.values()):
            link._hear(wire.WardenLost(at=time.time()))

    def _drop_queue(self) -> None:
        while self._queue:
            self._queue.popleft().close()

    def close(self) -> None:
        """Close the connection: no more launches; the warden ends after its last guardian."""
        if self._closed:
            return
        self._closed = True
        _notify_closing(self._socket.fileno())
        if not self._serving:
            # Else `serve` does it: a waiter forgets its descriptor one pass of the loop later, and
            # until then the number must not pass to another one.
            self._close_descriptors()
        # Nobody hears the warden any more; the links must come to their end all the same.
        self._lose_all()

    def abandon(self) -> None:
        """Close the connection of an event loop that is gone, and will not run `serve` any more."""
        self._serving = False
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        _open.discard(self)
        self._closed = True
        self._drop_queue()
        self._socket.close()

    def reap(self, timeout: float | None = None) -> bool:
        """Wait for the end of the warden and return whether it has come.

        Blocks without using the processor: for a worker thread.
        """
        try:
            descriptor = os.pidfd_open(self._process.pid)
        except OSError:
            descriptor = -1  # reaped by somebody else, or no descriptors left
        if descriptor >= 0:
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                if not poll.poll(None if timeout is None else max(0, int(timeout * 1000))):
                    return False
            finally:
                os.close(descriptor)
            timeout = None  # it has ended, so this returns at once
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True


_open: weakref.WeakSet[GuardianLink | WardenClient] = weakref.WeakSet()


def _close_in_fork() -> None:
    """A forked copy of the host must not look like a living host to the guardians."""
    for end in list(_open):
        with contextlib.suppress(OSError):
            end._close_descriptors()


os.register_at_fork(after_in_child=_close_in_fork)


def _notify_closing(descriptor: int) -> None:
    """Wake whoever waits for a descriptor; outside of an event loop that is nobody."""
    if descriptor >= 0:
        with contextlib.suppress(RuntimeError, LookupError):
            anyio.notify_closing(descriptor)
