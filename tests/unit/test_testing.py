"""The public kit for tests finds what it is there to find."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from eventbus_tasks.testing import (
    Identity,
    LeakError,
    Puppet,
    PuppetGoneError,
    leak_guard,
    living,
    wait_until_gone,
)


def test_import_needs_no_test_library() -> None:
    """The kit can be imported where neither pytest nor hypothesis is installed."""
    code = (
        "import sys, eventbus_tasks.testing;"
        "print([name for name in ('pytest', 'hypothesis') if name in sys.modules])"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_leak_guard_finds_a_child() -> None:
    """A child that is left, even as a zombie, is named by its command."""
    process = subprocess.Popen(["sleep", "1000"])
    try:
        with leak_guard(0.05):
            pass  # it was there before
        with pytest.raises(LeakError, match="sleep 1001") as caught, leak_guard(0.05):
            other = subprocess.Popen(["sleep", "1001"])
        assert list(caught.value.left) == ["processes"]
        other.kill()
        other.wait()
    finally:
        process.kill()
        process.wait()


def test_leak_guard_finds_a_descriptor() -> None:
    """A descriptor that is left is named by what it is."""
    with pytest.raises(LeakError, match="/dev/null") as caught, leak_guard(0.05):
        descriptor = os.open("/dev/null", os.O_RDONLY)
    os.close(descriptor)
    assert list(caught.value.left) == ["descriptors"]


def test_leak_guard_finds_a_thread() -> None:
    """A thread that is left is named; one that ends in time is not."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="forgotten")
    with pytest.raises(LeakError, match="forgotten"), leak_guard(0.05):
        thread.start()
    with leak_guard(10):
        late = threading.Thread(target=over.wait)
        late.start()
        over.set()
    thread.join()
    late.join()


def test_leak_guard_hides_no_exception() -> None:
    """What the block itself raises is what is seen."""
    with pytest.raises(ZeroDivisionError), leak_guard(0.05):
        raise ZeroDivisionError


def test_identity() -> None:
    """A process is known by number and start time: a zombie and another one are not it."""
    process = subprocess.Popen(["sleep", "1000"])
    who = Identity.of(process.pid)
    assert who.is_alive
    assert who.parent == os.getpid()
    assert living([who]) == (who,)
    with pytest.raises(AssertionError, match="still alive"):
        wait_until_gone([who], 0.02)
    stranger = Identity(who.pid, who.start_time + 1)
    assert not stranger.is_alive
    stranger.kill()
    assert who.is_alive
    who.kill()
    wait_until_gone([who])
    assert not who.is_alive
    process.wait()
    assert who.parent is None
    with pytest.raises(ProcessLookupError):
        Identity.of(process.pid)


def test_puppet_that_is_not_there() -> None:
    """Orders to a puppet that was not started, or has ended, are errors and no hang."""
    with Puppet() as puppet:
        with pytest.raises(PuppetGoneError):
            _ = puppet.identity
        with pytest.raises(PuppetGoneError):
            puppet.say("x")
        process = subprocess.Popen(puppet.argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        puppet.connect()
        puppet.say("hello\n", times=2)
        assert process.stdout.readline() == b"hello\n"
        process.kill()
        process.wait()
        with pytest.raises(PuppetGoneError):
            puppet.say("x")
        process.stdout.close()


def test_closing_a_puppet_ends_everything_that_it_started() -> None:
    """Whatever a failed test has left, nobody of a puppet's book lives after `close`."""
    with Puppet() as puppet:
        process = subprocess.Popen(puppet.argv, stdout=subprocess.DEVNULL)
        puppet.connect()
        puppet.spawn(daemon=True, wipe_environment=True, ignore=[signal.SIGTERM])
        puppet.spawn(session=True)
        assert len(puppet.living()) == 3
    process.wait()
    puppet.wait_until_gone()
