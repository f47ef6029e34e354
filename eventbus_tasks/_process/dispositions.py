"""What warden, guardian and leader do about signals.

The functions of `signal` turn each number that comes or goes into a member of an enumeration. A
process that was just forked copies every page that it touches for that, a hundred in all, and each
task takes two such processes. So these functions use the module that `signal` wraps.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # not in typeshed
import signal
from collections.abc import Callable
from typing import Any, Final

__all__ = [
    "DEFAULT",
    "HANDLED",
    "IGNORE",
    "IGNORED",
    "block_handled",
    "reset_signals",
    "set_action",
    "unblock_all",
    "wake_up",
]

DEFAULT: Final = int(signal.SIG_DFL)
IGNORE: Final = int(signal.SIG_IGN)

IGNORED: Final = tuple(map(int, (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)))
"""What wardens and guardians ignore; the rest of the world sends it to others."""

HANDLED: Final = (*IGNORED, int(signal.SIGCHLD), int(signal.SIGTERM))
"""Every signal that is not at its default in a warden or guardian."""

_BLOCK: Final = int(signal.SIG_BLOCK)
_SETMASK: Final = int(signal.SIG_SETMASK)


def set_action(number: int, action: int | Callable[[int, Any], object]) -> None:
    """Say what happens at a signal: `DEFAULT`, `IGNORE`, or a function is called."""
    _signal.signal(number, action)


def wake_up(*_: object) -> None:
    """Handle a signal of which only the byte in the wake-up pipe matters."""


def reset_signals() -> None:
    """Set every signal back to its default action."""
    for number in map(int, signal.valid_signals()):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            set_action(number, DEFAULT)


def block_handled() -> None:
    """Let those wait that are `HANDLED`, until `unblock_all`; others mean the same everywhere."""
    _signal.pthread_sigmask(_BLOCK, HANDLED)


def unblock_all() -> None:
    """Let no signal wait any more."""
    _signal.pthread_sigmask(_SETMASK, ())
