"""Finding a guardian from outside, and what strangers and dead sockets get."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from eventbus_tasks._process import visit, wire

if TYPE_CHECKING:
    from .conftest import Host, Run


def meet(host: Host, state: Path, *argv: str, uid: str = "u1", **policy: Any) -> Run:
    """Launch something that can be found."""
    place = visit.make_place(state, uid)
    try:
        return host.run(
            argv, rendezvous=place.listener.fileno(), rendezvous_path=place.path, uid=uid, **policy
        )
    finally:
        place.close()


@pytest.mark.anyio
async def test_found_by_others(host: Host, private_state: Path) -> None:
    """Whoever looks learns what runs; afterwards neither task nor socket is there."""
    run = meet(host, private_state, "sleep", "1000")
    started = await run.until(wire.Started)
    ((_, facts),) = await anyio.to_thread.run_sync(visit.find_all, private_state)
    assert facts["uid"] == "u1"
    assert facts["state"] == "running"
    assert facts["leader"] == [started.pid, started.start_time]
    assert facts["hosted"]
    run.link.stop("cancelled", now=True)
    await run.finish()
    assert visit.find_all(private_state) == []
    assert os.listdir(private_state / "run") == []


@pytest.mark.anyio
async def test_stopped_by_others(host: Host, private_state: Path) -> None:
    """A visitor ends a task, hears its end, and the host hears the same."""
    run = meet(host, private_state, "sleep", "1000")
    await run.until(wire.Started)
    ((path, _),) = visit.find_all(private_state)
    heard = await anyio.to_thread.run_sync(lambda: visit.watch(path, stop="now"))
    ended = await run.finish()
    assert ended.reason == "cancelled"
    assert heard == [ended]


@pytest.mark.anyio
async def test_output_of_unnamed_log(host: Host, private_state: Path) -> None:
    """A visitor can read a log that has no name, and cannot write to it."""
    run = meet(host, private_state, "sh", "-c", "echo hello; exec sleep 1000")
    await run.output_has(b"hello\n")
    ((path, _),) = visit.find_all(private_state)
    log = visit.open_logs(path)["stdout"]
    try:
        assert os.pread(log, 100, 0) == b"hello\n"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(log, b"x")
    finally:
        os.close(log)


@pytest.mark.anyio
async def test_host_that_lives_keeps_its_task(host: Host, private_state: Path) -> None:
    """Nobody becomes the host of a task whose own host lives."""
    run = meet(host, private_state, "sleep", "1000")
    await run.until(wire.Started)
    ((path, _),) = visit.find_all(private_state)
    assert visit.attach(path, {"host": [os.getpid(), 0]}) == "its host lives"


@pytest.mark.anyio
async def test_rude_visitors(host: Host, private_state: Path) -> None:
    """Nonsense, silence and too many connections neither hurt the task nor keep others away."""
    run = meet(host, private_state, "sleep", "1000")
    await run.until(wire.Started)
    ((path, _),) = visit.find_all(private_state)
    silent = [visit.connect(path) for _ in range(20)]
    for nonsense in (b"{", b"[]", b'{"ask": 5}', b'{"ask": "attach"}', b"\xff" * 1000):
        with visit.connect(path) as connection:
            connection.send(nonsense)
    assert len(visit.find_all(private_state)) == 1
    # More than there is room for: the oldest have to leave.
    silent += [visit.connect(path) for _ in range(80)]
    ((_, facts),) = visit.find_all(private_state)
    assert facts["state"] == "running"
    for connection in silent:
        connection.close()


def test_dead_sockets_are_removed(private_state: Path) -> None:
    """A socket without a listener is removed by whoever looks; one that listens is not."""
    living, dead = visit.make_place(private_state, "living"), visit.make_place(private_state, "d")
    dead.close()
    try:
        found = visit.find_all(private_state, patience=0)
        assert [facts for _, facts in found] == [{"uid": "living"}]
        assert os.listdir(private_state / "run") == ["living.sock"]
    finally:
        living.remove()
    assert os.listdir(private_state / "run") == []


def test_place_is_private(tmp_path: Path) -> None:
    """Socket and directory are for this user alone, however long the path; others' are refused."""
    state = tmp_path / ("long-" * 40)
    place = visit.make_place(state, "u")
    try:
        assert len(place.path) > 108
        assert (state / "run").stat().st_mode & 0o777 == 0o700
        assert Path(place.path).stat().st_mode & 0o777 == 0o600
        with visit.connect(place.path) as connection:
            assert isinstance(connection, socket.socket)
    finally:
        place.remove()
    (state / "run").chmod(0o777)
    with pytest.raises(PermissionError):
        visit.make_place(state, "u")
    assert visit.find_all(state) == []
