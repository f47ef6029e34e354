"""What a puppet runs: does one thing at a time, when told over a socket, and says when it is done.

Standard library only, and quick to start: it is executed with ``python -I -S``.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any


def _start_time(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def _identity(pid: int) -> list[int]:
    return [pid, _start_time(pid)]


def _say(order: dict[str, Any]) -> int:
    descriptor = 2 if order["stream"] == "stderr" else 1
    data = memoryview(base64.b64decode(order["data"]) * order["times"])
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])
    return written


def _ignore(order: dict[str, Any]) -> None:
    for number in order["signals"]:
        signal.signal(number, signal.SIG_IGN)


def _close(order: dict[str, Any]) -> None:
    # Something has to be there, or the next file that is opened would get the number.
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in order["streams"]:
        os.dup2(null, 2 if stream == "stderr" else 1)
    os.close(null)


def _spawn(order: dict[str, Any], connection: socket.socket) -> list[list[int]]:
    """Start something that only waits; return who it is."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            connection.close()
            os.close(reader)
            if order["daemon"]:
                os.setsid()
                if os.fork():
                    os._exit(0)
            elif order["session"]:
                os.setsid()
            for number in order["ignore"]:
                signal.signal(number, signal.SIG_IGN)
            if not order["hold_output"]:
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, 1)
                os.dup2(null, 2)
            os.write(writer, b"%d\n" % os.getpid())
            environ = {} if order["wipe"] else dict(os.environ)
            os.execve(order["sleeper"][0], order["sleeper"], environ)
        finally:
            os._exit(126)
    os.close(writer)
    with os.fdopen(reader) as lines:
        found = [_identity(int(line)) for line in lines]
    if order["daemon"]:
        os.waitpid(child, 0)
    return found


def _read_stdin(order: dict[str, Any]) -> str:
    data = b""
    while order["size"] is None or len(data) < order["size"]:
        chunk = os.read(0, 65536 if order["size"] is None else order["size"] - len(data))
        if not chunk:
            break
        data += chunk
    return base64.b64encode(data).decode()


def _describe(_: dict[str, Any]) -> dict[str, Any]:
    umask = os.umask(0o077)
    os.umask(umask)
    return {
        "cwd": os.getcwd(),
        "env": dict(os.environ),
        "umask": umask,
        "session": os.getsid(0),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    }


def _kill(order: dict[str, Any]) -> None:
    os.kill(os.getpid(), order["signal"])


def main(path: str) -> None:
    """Obey until told to exit, or until nobody is left to obey."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    actions: dict[str, Callable[[dict[str, Any]], Any]] = {
        "say": _say,
        "ignore": _ignore,
        "close": _close,
        "spawn": lambda order: _spawn(order, connection),
        "read_stdin": _read_stdin,
        "describe": _describe,
        "kill": _kill,
        "exit": lambda order: os._exit(order["code"]),
    }
    orders = connection.makefile("rb")
    connection.sendall(json.dumps({"me": _identity(os.getpid())}).encode() + b"\n")
    for line in orders:
        order = json.loads(line)
        try:
            answer = {"done": actions[order["do"]](order)}
        except OSError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        connection.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
