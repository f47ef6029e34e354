"""Finding running tasks and talking to their guardians: the visitor's side of a rendezvous.

Everything blocks, for a moment, under a deadline: for worker threads and command lines.

The sockets are in ``run`` in the state directory. That is a directory which every process of
the user finds, whatever its session; the session's own runtime directory goes away when its user
logs out, and a task that was detached stays. Where the state directory has no place for a socket
(file systems that know none), the session's directory is used all the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eventbus_tasks._process import wire
from eventbus_tasks._process.descriptors import close_all
from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.waiting import LONGEST

__all__ = [
    "Attached",
    "Place",
    "attach",
    "find_all",
    "has_guardian",
    "make_place",
    "open_logs",
    "request_stop",
    "wait_released",
    "watch",
]

PATIENCE: Final = 5.0
"""Seconds for a guardian to answer: it does so at once, unless its disk has stalled."""

RELEASE: Final = 2.0
"""Seconds for a warden to reap a guardian and to let go of its project: it does so at once."""

_SUFFIX: Final = ".sock"
_BATCH: Final = 64
_UNFINISHED: Final = 60.0
"""Seconds after which a socket that never got its name is nobody's any more."""


@dataclass(slots=True)
class Place:
    """The listening socket of a task that is about to start, and its path."""

    listener: socket.socket
    path: str

    def close(self) -> None:
        """Let go of this process's copy; the name stays, for the guardian has the other one."""
        self.listener.close()

    def let_go(self, *, has_guardian: bool) -> None:
        """`close` it, or `remove` it."""
        if has_guardian:
            self.close()
        else:
            self.remove()

    def remove(self) -> None:
        """Take the name away as well: there is no guardian."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.close()


@dataclass(slots=True, kw_only=True)
class Attached:
    """What a new host gets: the connection to the guardian, and everything to go on with.

    Attributes:
        control: The connection.
        bell: The descriptor that becomes readable after new output.
        spec: What was started, and how.
        facts: What `find_all` says about it, at this moment.
        logs: Descriptors of the logs, for reading, by stream.
        pipes: Where the guardian reads the output, by stream, in case that it is killed.
    """

    control: socket.socket
    bell: int
    spec: wire.LaunchSpec
    facts: Mapping[str, Any]
    logs: Mapping[str, int]
    pipes: Mapping[str, int]

    def close(self) -> None:
        """Give it back: the guardian takes this for the death of the host."""
        self.control.close()
        close_all((self.bell, *self.logs.values(), *self.pipes.values()))


def directories(state_dir: Path) -> list[Path]:
    """Return where sockets may be, the usual place first."""
    found = [state_dir / "run"]
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        found.append(Path(runtime) / "eventbus-tasks")
    return found


def make_place(state_dir: Path, uid: str) -> Place:
    """Make the rendezvous of a task.

    Raises:
        OSError: No directory has a place for it.
    """
    problem: OSError | None = None
    for directory in directories(state_dir):
        try:
            return _make(directory, uid)
        except OSError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _make(directory: Path, uid: str) -> Place:
    try:
        handle = _open_private(directory)
    except FileNotFoundError:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = _open_private(directory)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.fchmod(listener.fileno(), 0o600)
            # A path may be longer than a socket's address; this one never is. And it gets its name
            # only when it answers, so that whoever lists does not take it for a dead one.
            unfinished, name = f".{uid}", uid + _SUFFIX
            listener.bind(f"/proc/self/fd/{handle}/{unfinished}")
            try:
                listener.listen(64)
                os.rename(unfinished, name, src_dir_fd=handle, dst_dir_fd=handle)
            except BaseException:
                os.unlink(unfinished, dir_fd=handle)
                raise
        except BaseException:
            listener.close()
            raise
    finally:
        os.close(handle)
    return Place(listener, str(directory / name))


def _open_private(directory: Path) -> int:
    """Open a directory in which nobody else can put anything.

    Raises:
        OSError: It is not there, or others can write to it.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(handle)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        os.close(handle)
        raise PermissionError(errno.EPERM, "not a private directory of this user", str(directory))
    return handle


# -- finding ----------------------------------------------------------------------------------


def find_all(state_dir: Path, *, patience: float = PATIENCE) -> list[tuple[str, dict[str, Any]]]:
    """Return path and description of every task that runs; sockets of the dead are removed.

    Args:
        state_dir: The state directory.
        patience: Seconds for all of them to answer. Who does not, is described by ``uid`` alone.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    paths = [path for directory in directories(state_dir) for path in _sockets(directory)]
    deadline = time.monotonic() + patience
    for first in range(0, len(paths), _BATCH):
        waiting: dict[int, tuple[socket.socket, str]] = {}
        try:
            for path in paths[first : first + _BATCH]:
                with contextlib.suppress(OSError):
                    connection = connect(path, remove=True)
                    waiting[connection.fileno()] = (connection, path)
                    connection.send(b'{"ask":"who"}')
            found += _collect(waiting, deadline)
        finally:
            for connection, _ in waiting.values():
                connection.close()
    return found


def _collect(
    waiting: dict[int, tuple[socket.socket, str]], deadline: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    poll = select.poll()
    for number in waiting:
        poll.register(number, select.POLLIN)
    open_ones = set(waiting)
    while open_ones:
        ready = poll.poll(max(0, int((deadline - time.monotonic()) * 1000)))
        if not ready:
            break
        for number, _ in ready:
            poll.unregister(number)
            open_ones.discard(number)
            connection, path = waiting[number]
            try:
                yield path, dict(json.loads(connection.recv(wire.PACKET)))
            except (OSError, ValueError):
                # It has ended between the question and now, or has too many visitors.
                if _listens(path):
                    yield path, _unknown(path)
    for number in open_ones:
        path = waiting[number][1]
        yield path, _unknown(path)


def _unknown(path: str) -> dict[str, Any]:
    return {"uid": Path(path).name.removesuffix(_SUFFIX)}


def has_guardian(state_dir: Path, uid: str) -> bool:
    """Return whether a task has a guardian that lives, whatever has become of its host."""
    if "/" in uid:
        return False
    return any(_listens(str(directory / (uid + _SUFFIX))) for directory in directories(state_dir))


def _listens(path: str) -> bool:
    try:
        connect(path, remove=True).close()
    except OSError:
        return False
    return True


def _sockets(directory: Path) -> list[str]:
    try:
        handle = _open_private(directory)
    except OSError:
        return []
    try:
        names = sorted(os.listdir(handle))
        for name in names:
            if name.startswith("."):
                _remove_unfinished(handle, name)
    finally:
        os.close(handle)
    return [str(directory / name) for name in names if _is_name(name)]


def _is_name(name: str) -> bool:
    return name.endswith(_SUFFIX) and not name.startswith(".")


def _remove_unfinished(handle: int, name: str) -> None:
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        if stat.S_ISSOCK(status.st_mode) and time.time() - status.st_mtime > _UNFINISHED:
            os.unlink(name, dir_fd=handle)


def connect(path: str, *, remove: bool = False) -> socket.socket:
    """Connect to a guardian.

    Args:
        path: Its rendezvous.
        remove: Remove the socket if nobody listens there any more.

    Raises:
        ConnectionRefusedError: Nobody listens: its guardian is dead.
        FileNotFoundError: It has ended.
        OSError: Something else is in the way.
    """
    directory, name = os.path.split(path)
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # In the kernel: with a timeout of Python's it would not wait for its turn at all.
        limit = struct.pack("ll", int(PATIENCE), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            connection.connect(f"/proc/self/fd/{handle}/{name}")
        except ConnectionRefusedError:
            if remove:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=handle)
            raise
        connection.settimeout(PATIENCE)
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(handle)
    return connection


# -- asking -----------------------------------------------------------------------------------


def _ask(
    connection: socket.socket, request: Mapping[str, Any], descriptors: Sequence[int] = ()
) -> tuple[dict[str, Any], list[int]]:
    """Send a request and return the answer with its descriptors.

    Raises:
        OSError: There is no answer.
    """
    socket.send_fds(connection, [json.dumps(request).encode()], descriptors)
    data, received, _, _ = socket.recv_fds(connection, wire.PACKET, 8, socket.MSG_CMSG_CLOEXEC)
    try:
        if data:
            return dict(json.loads(data)), received
    except ValueError:
        pass
    for descriptor in received:
        os.close(descriptor)
    raise ConnectionResetError(errno.ECONNRESET, "the task has ended meanwhile")


def request_stop(path: str, *, now: bool) -> None:
    """Have a task stopped, and return at once.

    Raises:
        OSError: It has ended, or does not answer.
    """
    with connect(path) as connection:
        _ask(connection, {"ask": "stop", "now": now})


def open_logs(path: str) -> dict[str, int]:
    """Return descriptors of the logs, for reading, by stream.

    Raises:
        OSError: It has ended, or does not answer.
    """
    with connect(path) as connection:
        answer, received = _ask(connection, {"ask": "logs"})
    return dict(zip(answer.get("logs", ()), received, strict=True))


def watch(
    path: str,
    timeout: float | None = None,
    *,
    stop: str | None = None,
    watching: Callable[[], object] | None = None,
) -> list[wire.Message] | None:
    """Wait until a guardian has ended, and return its last words; none if it was killed.

    Args:
        path: Its rendezvous.
        timeout: Seconds to wait at most.
        stop: ``"polite"`` or ``"now"`` to have the task stopped first.
        watching: Called once nothing can be missed any more.

    Returns:
        ``None`` when the time is over.

    Raises:
        OSError: It had ended before, or does not answer.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    heard: list[wire.Message] = []
    with connect(path) as connection:
        _ask(connection, {"ask": "watch"})
        if watching is not None:
            watching()
        if stop is not None:
            # The answer is no message, and is passed over below.
            connection.send(json.dumps({"ask": "stop", "now": stop == "now"}).encode())
        while True:
            left = math.inf if deadline is None else deadline - time.monotonic()
            connection.settimeout(max(0.001, min(left, LONGEST)))
            try:
                data = connection.recv(wire.PACKET)
            except TimeoutError:
                if left <= LONGEST:
                    return None
                continue
            except ConnectionResetError:
                continue  # said once, before what is still there to be read
            if not data:
                return heard
            with contextlib.suppress(wire.WireError):
                heard.append(wire.decode(data))


def wait_released(guardian: Sequence[int], directory: Path) -> None:
    """Wait until a guardian is reaped, and its project free, for `RELEASE` seconds at most.

    Args:
        guardian: Number and start time.
        directory: The project.
    """
    deadline = time.monotonic() + RELEASE
    while (process := read_process(guardian[0])) and time.monotonic() < deadline:
        if process.start_time != guardian[1]:
            break
        time.sleep(0.002)
    # The warden lets go of the project in the same moment. Asking takes the lock for an instant.
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.002)
        finally:
            os.close(handle)


def attach(path: str, who: Mapping[str, Any]) -> Attached | str:
    """Become the host of a task whose own has died.

    Args:
        path: Its rendezvous.
        who: Number and start time of this process.

    Returns:
        Everything needed to go on with it, or why it cannot be had.

    Raises:
        OSError: It has ended, or does not answer.
    """
    connection = connect(path)
    try:
        host = os.pidfd_open(os.getpid())
        try:
            answer, received = _ask(connection, {"ask": "attach", "host": dict(who)}, [host])
        finally:
            os.close(host)
        with contextlib.ExitStack() as undo:
            for descriptor in received:
                undo.callback(os.close, descriptor)
            if answer.get("answer") != "attached":
                connection.close()
                return str(answer.get("why") or "it was refused")
            try:
                given = dict(zip(answer["descriptors"], received, strict=True))
                spec = given.pop("spec")
                decoded = wire.LaunchSpec.decode(os.pread(spec, os.fstat(spec).st_size, 0))
                connection.setblocking(False)
                attached = Attached(
                    control=connection,
                    bell=given.pop("bell"),
                    spec=decoded,
                    facts=answer["facts"],
                    pipes={
                        name.removesuffix("_pipe"): given.pop(name)
                        for name in ("stdout_pipe", "stderr_pipe")
                        if name in given
                    },
                    logs=given,
                )
            except (KeyError, ValueError) as error:
                raise ConnectionError(errno.EPROTO, f"not an answer of ours: {error}") from error
            undo.pop_all()
            os.close(spec)
            return attached
    except BaseException:
        connection.close()
        raise
