"""The messages between host, warden and guardian.

One message is one packet of a ``SOCK_SEQPACKET`` socket: a JSON object with a ``kind``. Text
that came from the system (arguments, environment, paths) travels as UTF-8 with
``surrogateescape``, whatever the locale of the two sides, so any bytes survive the journey.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

__all__ = [
    "Dropped",
    "Ended",
    "GuardianLost",
    "LaunchSpec",
    "LeaderExited",
    "Message",
    "Ready",
    "Released",
    "Resize",
    "SignalSent",
    "SpawnFailed",
    "Started",
    "Stop",
    "StopAsked",
    "Stopping",
    "Survivor",
    "Unswept",
    "WardenLost",
    "WireError",
    "decode",
    "decode_routed",
    "encode",
    "encode_routed",
    "encode_started",
]

PACKET: Final = 256 * 1024
"""No packet is larger than this."""


class WireError(ValueError):
    """A packet that is not one of our messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survivor:
    """A process that is still there: its number, its start time, its command line."""

    pid: int
    start_time: int
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The program runs. `argv` is filled in by the host: it may be larger than a packet."""

    kind: ClassVar[str] = "started"
    pid: int
    start_time: int
    executable: str
    at: float
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    """The program does not run: nothing was started, and nothing is left.

    `stage` is ``"cwd"`` (the directory), ``"exec"`` (the program) or ``"setup"`` (ours).
    """

    kind: ClassVar[str] = "spawn_failed"
    stage: str
    errno: int
    path: str
    message: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The stop ladder begins, for the first cause that was known."""

    kind: ClassVar[str] = "stopping"
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSent:
    """A signal went to these processes."""

    kind: ClassVar[str] = "signal_sent"
    signal: int
    pids: tuple[int, ...]
    scope: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Bytes `start` to `end` of a stream are not, or no longer, in the log.

    `why` is ``"retention"``, ``"truncated"`` (by somebody else) or the name of the error that a
    write met, such as ``"ENOSPC"``.
    """

    kind: ClassVar[str] = "dropped"
    stream: str
    start: int
    end: int
    why: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderExited:
    """The started process has ended; a negative code is the number of a signal."""

    kind: ClassVar[str] = "leader_exited"
    return_code: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last word of a guardian: family, output and end record are complete.

    Attributes:
        return_code: Of the leader; ``None`` when it never ran or could not be ended.
        reason: Why the guardian ended the task, or ``None`` when it ended by itself.
        unkillable: Whether `survivors` resisted ``SIGKILL``.
        survivors: Who is still there, by policy or by force.
        leftovers_killed: How many processes had outlived the leader and were signalled.
        sizes: Bytes that the task wrote, by stream, dropped ones included.
        dropped: How many of them are not in the log.
        record_error: Why the end record is not durable, or ``None``.
        at: Time of the message.
    """

    kind: ClassVar[str] = "ended"
    return_code: int | None
    reason: str | None
    unkillable: bool
    survivors: tuple[Survivor, ...]
    leftovers_killed: int
    sizes: Mapping[str, int]
    dropped: Mapping[str, int]
    record_error: str | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianLost:
    """The guardian died before its last word; a negative code is the number of a signal."""

    kind: ClassVar[str] = "guardian_lost"
    code: int | None
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unswept:
    """The warden cannot end what a guardian that was killed has left: it resists ``SIGKILL``.

    `Released` comes when the last of them has ended by itself. For `pipes` see there.
    """

    kind: ClassVar[str] = "unswept"
    survivors: tuple[Survivor, ...]
    at: float
    pipes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WardenLost:
    """The warden died. Made by the host; the guardian goes on and its messages still come."""

    kind: ClassVar[str] = "warden_lost"
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """Always last: the guardian is reaped, orphans are swept, the project lock is free.

    After the death of a guardian its pipes travel with this message, for what is still in them:
    `pipes` has the stream of each, in the order of their bytes.
    """

    kind: ClassVar[str] = "released"
    at: float
    pipes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Host to guardian: begin the ladder, or shorten the one that runs."""

    kind: ClassVar[str] = "stop"
    reason: str
    steps: tuple[Mapping[str, Any], ...] | None = None
    now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Host to guardian: the terminal of the task has another size."""

    kind: ClassVar[str] = "resize"
    columns: int
    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """Host to warden: the guardian of a task was sent this `Stop`; see that it is carried out."""

    kind: ClassVar[str] = "stop_asked"
    task: int
    reason: str
    steps: tuple[Mapping[str, Any], ...] | None = None
    now: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Warden to host: it is up."""

    kind: ClassVar[str] = "ready"
    pid: int


Message = (
    Started
    | SpawnFailed
    | Stopping
    | SignalSent
    | Dropped
    | LeaderExited
    | Ended
    | GuardianLost
    | Unswept
    | WardenLost
    | Released
)
"""What a host can hear about one task."""

_Packet = Message | Stop | Resize | StopAsked | Ready

_KINDS: Final[dict[str, type[Any]]] = {
    cls.kind: cls
    for cls in (
        Started,
        SpawnFailed,
        Stopping,
        SignalSent,
        Dropped,
        LeaderExited,
        Ended,
        GuardianLost,
        Unswept,
        WardenLost,
        Released,
        Stop,
        Resize,
        StopAsked,
        Ready,
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """What to run and how; everything but the descriptors.

    Attributes:
        uid: The task's key; becomes ``EBT_TASK`` in the environment of the program.
        argv: Program and arguments. A program with a slash is relative to `cwd`; one without is
            searched in the ``PATH`` of `env`.
        cwd: Working directory.
        env: The whole environment.
        policy: `TerminationPolicy.to_dict`.
        capture: ``"pipe"``, ``"file"`` or ``"pty"``.
        pty_size: Columns and lines of the terminal.
        umask: File mode mask of the program.
        nofile: Soft limit of open files; ``None`` for the one the warden was started with.
        about: Who the task is, for whoever asks its guardian: JSON data, small.
        request: What was asked for, for a host that takes the task over: JSON data.
        rendezvous: Path of the socket at which the guardian is asked, or ``None``.
    """

    uid: str
    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    policy: Mapping[str, Any] = field(default_factory=dict)
    capture: str = "pipe"
    pty_size: Sequence[int] = (80, 24)
    umask: int = 0o022
    nofile: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    rendezvous: str | None = None

    def encode(self) -> bytes:
        """Return the specification as it travels.

        Raises:
            ValueError: A NUL byte, an empty argv, or a name of the environment that is not one.
            UnicodeEncodeError: Text that is not from this system.
        """
        self._check()
        data = {
            "uid": self.uid,
            "argv": [_outward(text) for text in self.argv],
            "cwd": _outward(self.cwd),
            "env": {_outward(name): _outward(value) for name, value in self.env.items()},
            "policy": dict(self.policy),
            "capture": self.capture,
            "pty_size": list(self.pty_size),
            "umask": self.umask,
            "nofile": self.nofile,
            "about": dict(self.about),
            "request": dict(self.request),
            "rendezvous": self.rendezvous,
        }
        return json.dumps(data, separators=(",", ":")).encode()

    def _check(self) -> None:
        texts = (*self.argv, self.cwd, *self.env, *self.env.values())
        if "\0" in "".join(texts):  # at once: there are dozens
            wrong = next(text for text in texts if "\0" in text)
            raise ValueError(f"NUL byte in {wrong!r}")
        if "" in self.env or "=" in "".join(self.env):
            wrong = next(name for name in self.env if not name or "=" in name)
            raise ValueError(f"{wrong!r} cannot be the name of an environment variable")
        if not self.argv:
            raise ValueError("argv is empty")

    @classmethod
    def decode(cls, data: bytes) -> LaunchSpec:
        """Rebuild a specification; its text is UTF-8 with ``surrogateescape``.

        Raises:
            WireError: The data is not a specification.
        """
        try:
            return cls(**_read(data.partition(b"\0")[0].decode())[0])
        except (ValueError, TypeError) as error:
            raise WireError(f"not a launch specification: {error}") from error


def encode(message: _Packet) -> bytes:
    """Return a message as one packet."""
    return _write(_plain(message)).encode()


def encode_started(pid: int, start_time: int, executable: str, at: float) -> bytes:
    """Return a `Started` as one packet.

    Every guardian sends one, and most of them nothing else for as long as they live: to do that
    like all others takes 30 pages of memory more.
    """
    path = _quote(executable[:4096])
    text = f'{{"pid":{pid},"start_time":{start_time},"executable":{path},"at":{at!r}'
    return f'{text},"argv":[],"kind":"started"}}'.encode()


def decode(data: bytes) -> Any:
    """Return the message in a packet.

    Raises:
        WireError: The packet is not one of our messages.
    """
    try:
        return _rebuild(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WireError(f"not a message: {data[:200]!r}: {error}") from error


def encode_routed(task: int, message: Message) -> bytes:
    """Return a message about one of many tasks as one packet."""
    return _write([task, _plain(message)]).encode()


def decode_routed(data: bytes) -> tuple[int, Any]:
    """Return the number of a task and a message about it.

    Raises:
        WireError: The packet is not a routed message.
    """
    try:
        task, body = json.loads(data)
        return int(task), _rebuild(body)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WireError(f"not a routed message: {data[:200]!r}: {error}") from error


def _plain(message: Any) -> dict[str, Any]:
    data = {}
    for name in message.__slots__:
        data[name] = getattr(message, name)
    if kind := getattr(message, "kind", None):
        data["kind"] = kind
    return data


def _rebuild(data: dict[str, Any]) -> Any:
    cls = _KINDS[data.pop("kind")]
    for name, value in data.items():
        if isinstance(value, list):
            data[name] = tuple(value)
    if cls in (Ended, Unswept):
        data["survivors"] = tuple(Survivor(**item) for item in data["survivors"])
    elif cls is Started:
        data["executable"] = _inward(data["executable"])
    elif cls is SpawnFailed:
        data["path"] = _inward(data["path"])
    return cls(**data)


_write: Final = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
_quote: Final = json.encoder.encode_basestring_ascii
_read: Final = json.JSONDecoder().raw_decode


def _outward(text: str) -> str:
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "surrogateescape")


def _inward(text: str) -> str:
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))
