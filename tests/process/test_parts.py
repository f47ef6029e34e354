"""Lock, wire, ladder, family and times of waiting by themselves."""

from __future__ import annotations

import contextlib
import enum
import errno
import math
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks._process import family, launch, lock, wire
from eventbus_tasks._process.descriptors import close_all, unlock_all
from eventbus_tasks._process.ladder import KILL, Ladder, Policy, Rung
from eventbus_tasks._process.launch import LaunchRequest
from eventbus_tasks._process.lock import Busy, ProjectLock
from eventbus_tasks._process.signalling import send_rung
from eventbus_tasks._process.waiting import LONGEST, poll_time
from eventbus_tasks.policies import Step, TerminationPolicy

from .conftest import GUARD, alive, identity, wait_until

# -- lock --------------------------------------------------------------------------------------


def test_one_project_by_any_name(tmp_path: Path) -> None:
    """Every spelling of a directory is the same project, and the loser learns who holds it."""
    project, state = tmp_path / "project", tmp_path / "state"
    project.mkdir()
    (tmp_path / "link").symlink_to(project)
    with contextlib.closing(acquire(project, state, {"task": 5})) as held:
        for name in (project, tmp_path / "link", project / ".." / "project"):
            assert ProjectLock.acquire(name, state, {}) == Busy({"task": 5})
        assert held.key == f"{project.stat().st_dev}-{project.stat().st_ino}"
    acquire(project, state, {}).close()


def acquire(project: Path, state: Path, holder: dict[str, Any]) -> ProjectLock:
    """Take a lock that is free."""
    held = ProjectLock.acquire(project, state, holder)
    assert isinstance(held, ProjectLock)
    return held


def test_two_processes(tmp_path: Path) -> None:
    """A copy in another process keeps the project taken until that process has ended."""
    held = acquire(tmp_path, tmp_path / "state", {})
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[held.fd]) as process:
        held.close()
        assert isinstance(ProjectLock.acquire(tmp_path, tmp_path / "state", {}), Busy)
        process.kill()
    acquire(tmp_path, tmp_path / "state", {}).close()


def test_fork_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A forked copy of the host holds no project."""
    held = acquire(tmp_path, tmp_path / "state", {})
    read, write = os.pipe()
    forked, forks = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        os.write(forks, b"x")
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    held.close()
    os.read(forked, 1)
    again = ProjectLock.acquire(tmp_path, tmp_path / "state", {})
    os.close(forked)
    os.close(forks)
    os.close(write)
    os.waitpid(pid, 0)
    assert isinstance(again, ProjectLock)
    again.close()


def test_file_systems_that_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where directories cannot be locked, a private lock file that stays does the same."""
    real = lock._try_lock

    def refuse(descriptor: int) -> bool:
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path):
            raise OSError(errno.ENOLCK, "no locks here")
        return real(descriptor)

    monkeypatch.setattr(lock, "_try_lock", refuse)
    state = tmp_path / "state"
    held = acquire(tmp_path, state, {"a": 1})
    assert ProjectLock.acquire(tmp_path, state, {}) == Busy({"a": 1})
    held.close()
    acquire(tmp_path, state, {}).close()
    (path,) = (state / "locks").iterdir()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"{"])
def test_unreadable_holder(tmp_path: Path, text: bytes) -> None:
    """A holder file that makes no sense is no holder, and no error."""
    held = acquire(tmp_path, tmp_path / "state", {})
    (tmp_path / "state" / "holders" / f"{held.key}.json").write_bytes(text)
    assert ProjectLock.acquire(tmp_path, tmp_path / "state", {}) == Busy(None)
    held.close()


# -- descriptors -------------------------------------------------------------------------------


def test_closing_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a disk says at the end keeps nobody from closing the rest; a wrong number is a bug."""
    numbers = [os.dup(1) for _ in range(3)]
    close = os.close

    def broken(number: int) -> None:
        close(number)
        if number == numbers[0]:
            raise OSError(errno.EIO, "the disk has gone")

    monkeypatch.setattr(os, "close", broken)
    close_all([numbers[0], -1, numbers[1]])
    unlock_all([numbers[2]])
    for number in numbers:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    with pytest.raises(OSError, match="Bad file descriptor"):
        close_all([numbers[1]])


# -- wire --------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
survivors = st.lists(
    st.builds(wire.Survivor, pid=st.integers(), start_time=st.integers(), command=text)
).map(tuple)

messages = st.one_of(
    st.builds(
        wire.Started,
        pid=st.integers(),
        start_time=st.integers(),
        executable=text,
        at=st.floats(allow_nan=False),
    ),
    st.builds(
        wire.SpawnFailed,
        stage=text,
        errno=st.integers(),
        path=text,
        message=text,
        at=st.floats(allow_nan=False),
    ),
    st.builds(
        wire.SignalSent,
        signal=st.integers(),
        pids=st.lists(st.integers()).map(tuple),
        scope=text,
        at=st.floats(allow_nan=False),
    ),
    st.builds(
        wire.Ended,
        return_code=st.none() | st.integers(),
        reason=st.none() | text,
        unkillable=st.booleans(),
        leftovers_killed=st.integers(),
        survivors=survivors,
        sizes=st.dictionaries(text, st.integers()),
        dropped=st.dictionaries(text, st.integers()),
        record_error=st.none() | text,
        at=st.floats(allow_nan=False),
    ),
    st.builds(wire.Unswept, survivors=survivors, at=st.floats(allow_nan=False)),
)


@given(messages, st.integers())
def test_messages_survive_the_journey(message: wire.Message, task: int) -> None:
    """What is decoded equals what was encoded."""
    assert wire.decode(wire.encode(message)) == message
    assert wire.decode_routed(wire.encode_routed(task, message)) == (task, message)


@given(st.integers(), st.integers(), text, st.floats(allow_nan=False, allow_infinity=False))
def test_the_short_way_says_the_same(pid: int, start_time: int, path: str, at: float) -> None:
    """What is heard of a start does not depend on the way in which it was encoded."""
    message = wire.Started(pid=pid, start_time=start_time, executable=path, at=at)
    packet = wire.encode_started(pid, start_time, path, at)
    assert wire.decode(packet) == wire.decode(wire.encode(message)) == message


def test_paths_that_are_no_text() -> None:
    """The path of a program survives with any bytes in it."""
    path = os.fsdecode(b'/tmp/\xff"\\\n')
    assert wire.decode(wire.encode_started(1, 2, path, 0.5)).executable == path


rungs = st.builds(Rung, st.integers(1, 64), text, st.floats(0, 1e6))
policies = st.builds(
    Policy,
    rungs=st.lists(rungs, max_size=5).map(tuple),
    kill_wait=st.floats(0, 1e6),
    on_host_death=st.sampled_from(["kill", "detach"]),
    timeout=st.none() | st.floats(0, 1e6),
    max_output=st.none() | st.integers(0),
)
requests = st.builds(
    LaunchRequest,
    task=st.integers(0, 2**40),
    uid=text,
    policy=policies,
    capture=st.sampled_from(["pipe", "file", "pty"]),
    pty_size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    nofile=st.none() | st.integers(1, 2**20),
    rendezvous=st.none() | text,
    pipes=st.sampled_from([(), ("stdout",), ("stdout", "stderr")]),
    descriptors=st.lists(st.integers(0, 20)).map(tuple),
)


@given(requests)
def test_requests_survive_the_journey(request: LaunchRequest) -> None:
    """A warden reads the request that its host has written."""
    assert launch.decode(launch.encode(request)) == request


def test_members_of_enumerations_travel_as_what_they_are() -> None:
    """What is a text or a number for everybody else is one for the warden, too."""

    class Word(enum.StrEnum):
        PIPE = "pipe"
        KILL = "kill"

    policy = Policy(
        rungs=(Rung(signal.SIGINT, Word.KILL, 1),), on_host_death=Word.KILL, max_output=True
    )
    request = LaunchRequest(
        1, Word.KILL, policy, Word.PIPE, (80, 24), None, None, [Word.PIPE], 0, []
    )
    there = launch.decode(launch.encode(request))
    assert there.policy == policy
    kinds = [there.uid, there.capture, there.policy.on_host_death, there.policy.rungs[0].scope]
    assert [type(value) for value in kinds] == [str] * 4
    assert type(there.policy.rungs[0].signal) is int


def test_numbers_of_other_kinds_travel_as_numbers() -> None:
    """A packet holds numbers and texts only, whatever else a kind of number may be."""

    class Odd(float):
        pass

    def packet(timeout: Any) -> bytes:
        policy = Policy(timeout=timeout)
        return launch.encode(LaunchRequest(1, "u", policy, "pipe", (1, 1), None, None, [], 0, []))

    timeout = launch.decode(packet(Odd(1.5))).policy.timeout
    assert (type(timeout), timeout) == (float, 1.5)
    for bad in (b"1", object(), memoryview(b"1")):
        with pytest.raises(TypeError, match="cannot be sent"):
            packet(bad)


def test_largest_policy_fits() -> None:
    """A policy with as many steps as are allowed is carried out; one more is refused."""
    most = TerminationPolicy(steps=(Step(signal=15, grace=0.1 + 0.2),) * 1000)
    policy = Policy.from_dict(most.to_dict())
    request = LaunchRequest(1, "u" * 100, policy, "pipe", (80, 24), None, "/" * 200, [], 0, [])
    assert launch.decode(launch.encode(request)).policy == policy
    with pytest.raises(ValueError, match="1000 steps at most, not 1001"):
        most.with_changes(steps=(*most.steps, Step(signal=9)))


@given(requests, st.data())
def test_half_a_request(request: LaunchRequest, data: st.DataObject) -> None:
    """A request that is cut off is an error of a kind that the warden expects."""
    packet = launch.encode(request)
    with pytest.raises((ValueError, EOFError, TypeError)):
        launch.decode(packet[: data.draw(st.integers(0, len(packet) - 1))])


@given(st.binary())
def test_garbage_is_a_wire_error(data: bytes) -> None:
    """No packet, however broken, raises anything else."""
    for read in (wire.decode, wire.decode_routed, wire.LaunchSpec.decode):
        with pytest.raises(wire.WireError):
            read(data)


# -- ladder ------------------------------------------------------------------------------------

A, B = Rung(1, "tree", 2.0), Rung(2, "leader", 3.0)


def test_ladder_goes_up_by_its_graces() -> None:
    """Each rung comes once, after the grace of the one before, and SIGKILL is repeated."""
    ladder = Ladder([A, B], kill_wait=0.5, now=10.0)
    story = [(now / 10, ladder.advance(now / 10)) for now in range(100, 160)]
    assert [(now, rung) for now, rung in story if rung][:4] == [
        (10.0, A),
        (12.0, B),
        (15.0, KILL),
        (15.1, KILL),
    ]
    assert not ladder.given_up(15.4)
    assert ladder.given_up(15.5)


def test_ladder_is_only_ever_shortened() -> None:
    """A longer ladder is not taken over, a shorter one is, and none at all kills at once."""
    ladder = Ladder([A, B], kill_wait=1, now=0.0)
    assert ladder.advance(0.0) is A
    ladder.shorten([Rung(3, "tree", 5.0)], 0.0)
    assert ladder.advance(0.0) is None
    ladder.shorten([Rung(3, "tree", 4.9)], 0.0)
    assert ladder.advance(0.0) == Rung(3, "tree", 4.9)
    ladder.shorten([], 0.1)
    assert ladder.advance(0.1) is KILL


def test_ladder_does_not_wait_for_a_leader_that_has_gone() -> None:
    """The leader's end ends a rung that was meant for it, and no other one."""
    for first, due in ((B, 0.2), (A, 2.0)):
        ladder = Ladder([first, A], kill_wait=1, now=0.0)
        assert ladder.advance(0.0) is first
        ladder.leader_left(0.2)
        assert ladder.deadline == due
        assert ladder.advance(due) is A
        ladder.leader_left(2.2)
        assert ladder.deadline == due + 2.0


def test_policy_defaults_are_those_of_the_public_policy() -> None:
    """The guardian's idea of an absent key is the public default."""
    assert Policy.from_dict(TerminationPolicy().to_dict()) == Policy()


# -- family ------------------------------------------------------------------------------------


def test_families_are_found_with_and_without_kernel_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk finds grandchildren, whether or not the kernel lists children."""
    code = "sleep 600 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        try:
            # The shell names it when it is forked, which is before it has become another program.
            while (found := family.read_process(grandchild)) and not found.executed:
                os.sched_yield()
            walk = family.descendants(os.getpid())
            assert {process.pid, grandchild} <= {p.pid for p in walk}
            assert family._children_by_scan(process.pid) == [grandchild]
            assert [family.command(p) for p in walk if p.pid == grandchild] == ["sleep 600"]
            branch = family.descendants(os.getpid(), without=[process.pid])
            assert not {process.pid, grandchild} & {p.pid for p in branch}
        finally:
            os.kill(grandchild, 9)
            process.kill()


@pytest.mark.parametrize("pinned", [True, False])
def test_sigkill_reaches_whom_no_walk_has_seen(pinned: bool) -> None:
    """SIGKILL ends the whole group of a leader that is not reaped, before and beside the walk."""
    code = "sleep 600 & echo $!; wait"
    with subprocess.Popen(
        ["sh", "-c", code], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        unseen = identity(int(process.stdout.readline()))
        leader = family.read_process(process.pid)
        assert leader is not None
        reached = send_rung(KILL, lambda: [leader], leader=process.pid, pinned=pinned)
        try:
            assert reached == {process.pid: leader}
            assert process.wait(GUARD) == -9
            if pinned:
                wait_until(lambda: not alive(unseen))
            else:
                assert alive(unseen)
        finally:
            family.signal_process(*unseen, 9)


def test_a_number_alone_is_not_a_process() -> None:
    """A signal does not reach a process whose start time is another one."""
    with subprocess.Popen(["sleep", "600"]) as process:
        known = family.read_process(process.pid)
        assert known is not None
        assert not family.signal_process(process.pid, known.start_time - 1, 9)
        assert process.poll() is None
        assert family.signal_process(process.pid, known.start_time, 9)
    assert not family.signal_process(process.pid, known.start_time, 9)


# -- waiting -----------------------------------------------------------------------------------


@given(st.floats(allow_nan=False))
def test_every_time_can_be_waited_for(seconds: float) -> None:
    """A time is waited for as long as it takes, or in pieces that the kernel can count."""
    given_to_poll = poll_time(seconds)
    if seconds == math.inf:
        assert given_to_poll is None
    else:
        assert given_to_poll is not None
        assert 0 <= given_to_poll < 2**31
        assert given_to_poll >= min(seconds, LONGEST) * 1000
