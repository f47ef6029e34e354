"""What ``ebt`` itself says, on standard error: single lines that begin with ``ebt:``."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from eventbus_tasks import terminal_safe
from eventbus_tasks._cli.terminal import ERASE

__all__ = ["configure_logging", "is_debugging", "say", "set_live", "write_line"]

_LOGGER: Final = "eventbus_tasks"


_live = False  # a line at the bottom of the terminal is kept up to date


def set_live(live: bool) -> None:
    """Say whether there is a line at the bottom of the terminal that messages must not touch."""
    global _live
    _live = live


def say(text: str) -> None:
    """Write one message; when standard error is gone, nobody can be told."""
    write_line(f"ebt: {' '.join(terminal_safe(text).split(chr(10)))}")


def write_line(line: str) -> None:
    """Write a line to standard error, in the place of the live one, which comes again by itself."""
    try:
        erase = ERASE if _live and sys.stderr.isatty() else ""
        sys.stderr.write(f"{erase}{line}\n")
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
