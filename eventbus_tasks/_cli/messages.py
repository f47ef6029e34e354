"""What ``ebt`` itself says, on standard error: single lines that begin with ``ebt:``."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from eventbus_tasks import terminal_safe
from eventbus_tasks._cli.terminal import ERASE

if TYPE_CHECKING:
    from eventbus_tasks._cli.outlet import Outlet

__all__ = ["configure_logging", "is_debugging", "pass_on", "said_by", "say", "set_live"]

_LOGGER: Final = "eventbus_tasks"


_outlet: Outlet | None = None  # writes in our place
_live = False  # a line at the bottom of the terminal is kept up to date


def set_live(live: bool) -> None:
    """Say whether there is a line at the bottom of the terminal that messages must not touch."""
    global _live
    _live = live


@contextlib.contextmanager
def said_by(outlet: Outlet) -> Iterator[None]:
    """Have everything said by an outlet for standard error, within the block.

    Whoever reads it may have stopped reading, and what we have to do must not wait for them.
    """
    global _outlet
    _outlet = outlet
    try:
        yield
    finally:
        _outlet = None


def say(text: str) -> None:
    """Write one message; when standard error is gone, nobody can be told."""
    _write(f"{_erase()}ebt: {' '.join(terminal_safe(text).split(chr(10)))}\n")


async def pass_on(text: str) -> None:
    """Write safe text of somebody else to standard error, and wait for a slow reader.

    A line at the bottom of the terminal makes room for it, and comes again by itself.
    """
    if _outlet is None:
        _write(_erase() + text)
        return
    from eventbus_tasks._cli.outlet import OutletError

    with contextlib.suppress(OutletError):
        await _outlet.write(_encoded(_erase() + text))


def _erase() -> str:
    return ERASE if _live and os.isatty(2) else ""


def _encoded(text: str) -> bytes:
    return text.encode(sys.stderr.encoding or "utf-8", "backslashreplace")


def _write(text: str) -> None:
    if _outlet is not None:
        _outlet.put(_encoded(text))
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def is_debugging() -> bool:
    """Whether tracebacks are wanted (``EBT_DEBUG=1``)."""
    return os.environ.get("EBT_DEBUG", "") not in ("", "0")


class _Handler(logging.Handler):
    """Says what the library logs, in one line; with its traceback only for those who debug."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f": {type(error).__name__}: {error}"
            if is_debugging():
                import traceback

                traceback.print_exception(error)
        say(text)


def configure_logging(*, quiet: bool = False) -> None:
    """Show warnings of the library the way everything else is said.

    Args:
        quiet: Not even those: what they say is part of the command's own output.
    """
    logger = logging.getLogger(_LOGGER)
    logger.handlers = [logging.NullHandler() if quiet else _Handler(logging.WARNING)]
    logger.propagate = False
