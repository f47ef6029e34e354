"""The last resort: finding and ending the processes of a task by their mark alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid

from eventbus_tasks._process.family import read_process
from eventbus_tasks._process.marker import MARK, sweep_marked


def start(uid: str | None) -> subprocess.Popen[bytes]:
    """Start a process of its own session that carries the mark of a task, or none."""
    env = {"PATH": os.defpath} | ({} if uid is None else {MARK: uid})
    return subprocess.Popen(["sleep", "600"], env=env, start_new_session=True)


def test_marked_processes_end() -> None:
    """Every process with the mark is ended, and one with the mark of another task is not."""
    uid, other = str(uuid.uuid4()), str(uuid.uuid4())
    with start(uid) as mine, start(uid) as mine_too, start(other) as theirs:
        try:
            assert sweep_marked(uid, 10.0) == ()
            assert mine.wait(10) == mine_too.wait(10) == -signal.SIGKILL
            assert theirs.poll() is None
        finally:
            theirs.kill()


def test_leader_without_mark_ends() -> None:
    """A leader that is known by number and start time is ended although it has lost its mark."""
    with start(None) as leader:
        process = read_process(leader.pid)
        assert process is not None
        leader_id = (leader.pid, process.start_time)
        assert sweep_marked(str(uuid.uuid4()), 10.0, leader=leader_id) == ()
        assert leader.wait(10) == -signal.SIGKILL


def test_number_of_a_stranger_is_left_alone() -> None:
    """A process that has only the number of the leader, and another start time, lives on."""
    with start(None) as stranger:
        try:
            process = read_process(stranger.pid)
            assert process is not None
            leader_id = (stranger.pid, process.start_time - 1)
            assert sweep_marked(str(uuid.uuid4()), 10.0, leader=leader_id) == ()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_program_that_executes_itself_again_and_again() -> None:
    """A process that is hardly ever seen with an environment, because it executes, is ended."""
    uid = str(uuid.uuid4())
    again = 'import os, sys; os.execv(sys.executable, [sys.executable, "-S", "-c", sys.argv[1], '
    again += "sys.argv[1]])"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", again, again], env={MARK: uid}, start_new_session=True
    )
    with process:
        assert sweep_marked(uid, 20.0) == ()
        assert process.wait(10) == -signal.SIGKILL
