"""What a caller is told when a request is not accepted."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from eventbus_tasks import (
    EventbusTasksError,
    InvalidRequestError,
    ResourceError,
    SettingsError,
    TaskRequest,
)
from eventbus_tasks._admission import refusal
from eventbus_tasks._threads import DeadlineExceededError, NoWorkerError

REQUEST = TaskRequest(name="t", project_dir=Path("/p"), argv=("true",))


def system(number: int, path: str | None = None) -> OSError:
    """Return an error of the system."""
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (system(errno.EMFILE), errno.EMFILE),
        (system(errno.ENOSPC, "/state/holders"), errno.ENOSPC),
        (NoWorkerError(errno.EAGAIN, "no thread"), errno.EAGAIN),
        (MemoryError(), errno.ENOMEM),
        (DeadlineExceededError(10.0), errno.ETIMEDOUT),
    ],
)
def test_what_the_system_refuses(error: Exception, number: int) -> None:
    """Whatever the system refuses is one error of ours, with the number, and survives pickling."""
    made = refusal(error, REQUEST)
    assert isinstance(made, ResourceError)
    assert made.errno == number
    assert made.__cause__ is error
    assert str(pickle.loads(pickle.dumps(made))) == str(made)


def test_a_project_that_cannot_be_opened() -> None:
    """What is wrong with the project directory itself is wrong with the request."""
    made = refusal(system(errno.EACCES, "/p"), REQUEST)
    assert isinstance(made, InvalidRequestError)
    assert made.field == "project_dir"
    assert os.strerror(errno.EACCES) in str(made)


def test_settings_that_cannot_be_read() -> None:
    """Settings are to blame for what is in their file, not for a lack of descriptors."""
    errors: list[EventbusTasksError] = []
    for number in (errno.EMFILE, errno.EACCES):
        error = SettingsError("config.toml", "", "cannot be read")
        error.__cause__ = system(number, "config.toml")
        made = refusal(error, REQUEST)
        assert isinstance(made, EventbusTasksError)
        errors.append(made)
    assert isinstance(errors[0], ResourceError)
    assert isinstance(errors[1], SettingsError)


def test_our_own_mistakes_stay_what_they_are() -> None:
    """An error that is neither the system's nor the caller's is not dressed up."""
    error = ZeroDivisionError()
    assert refusal(error, REQUEST) is error
    busy = EventbusTasksError("busy")
    assert refusal(busy, None) is busy
