"""The command ``ebt logs``."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Final, Protocol

from eventbus_tasks_disk.cleaning import OutputCleaner
from eventbus_tasks_disk.commands import find_or_complain
from eventbus_tasks_disk.history import Entry, summarize
from eventbus_tasks_disk.printing import print_text
from eventbus_tasks_disk.storage import JOURNAL, LOGS

if TYPE_CHECKING:
    import argparse

__all__ = ["run_logs"]

_BLOCK: Final = 64 * 1024
# Seconds between two looks at a log that is followed, and between two at the task itself.
_LOOK: Final = 0.01
_ASK: Final = 0.25


class _Sink(Protocol):
    def write(self, data: bytes) -> None:
        """Show bytes of the log."""

    def finish(self) -> None:
        """Show what was held back."""


class _Raw:
    """Passes bytes on as they are."""

    def write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def finish(self) -> None:
        """Nothing is held back."""


class _Cleaned:
    """Shows text that no terminal acts on."""

    def __init__(self) -> None:
        self._cleaner = OutputCleaner()

    def write(self, data: bytes) -> None:
        self._print(self._cleaner.feed(data))

    def finish(self) -> None:
        self._print(self._cleaner.finish())

    def _print(self, text: str) -> None:
        if text:
            print_text(text)
            sys.stdout.flush()


def run_logs(arguments: argparse.Namespace) -> int:
    """Print the output of a task, and follow it if that is wanted."""
    entry = find_or_complain(arguments.task)
    if isinstance(entry, int):
        return entry
    stream = "stderr" if arguments.stderr else "stdout"
    sink: _Sink = _Raw() if arguments.raw else _Cleaned()
    try:
        log = _open_log(entry, stream, wait=arguments.follow)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and summarize(entry).status != "gone":
            print_text(f"ebt: task {entry.id} has no {stream} of its own\n", to=sys.stderr)
        else:
            problem = f"the output of task {entry.id} is gone or out of reach"
            print_text(f"ebt: {problem}: {error.strerror}\n", to=sys.stderr)
        return 1
    try:
        position = 0 if arguments.lines is None else _start_of_last(log, arguments.lines)
        position = _copy(log, position, sink)
        if arguments.follow:
            _follow(entry, log, position, sink)
        sink.finish()
    finally:
        os.close(log)
    return 0


def _open_log(entry: Entry, stream: str, *, wait: bool) -> int:
    """Open a log; one that may still come is waited for.

    Raises:
        OSError: There is none.
    """
    while True:
        try:
            return entry.open(LOGS[stream])
        except FileNotFoundError:
            # The task may wait for its turn, or be about to start.
            if not wait or summarize(entry).status not in ("pending", "queued"):
                raise
        time.sleep(_LOOK)


def _copy(log: int, position: int, sink: _Sink) -> int:
    while block := os.pread(log, _BLOCK, position):
        sink.write(block)
        position += len(block)
    return position


def _follow(entry: Entry, log: int, position: int, sink: _Sink) -> None:
    try:
        journal = entry.open(JOURNAL)
    except OSError:
        return
    try:
        known = -1
        asked = 0.0
        while True:
            # Asked before the log is read: the end of a task comes after its last byte.
            size, now = os.fstat(journal).st_size, time.monotonic()
            ended = False
            if size != known or now - asked >= _ASK:
                known, asked = size, now
                ended = not summarize(entry).is_live
            position = _copy(log, position, sink)
            if ended:
                return
            time.sleep(_LOOK)
    finally:
        os.close(journal)


def _start_of_last(log: int, count: int) -> int:
    """Return where the last `count` lines begin."""
    position = os.fstat(log).st_size
    if not count or not position:
        return position
    # The line ending of the last line is none between two lines.
    wanted = count + (os.pread(log, 1, position - 1) == b"\n")
    while position > 0:
        begin = max(0, position - _BLOCK)
        block = os.pread(log, position - begin, begin)
        found = block.count(b"\n")
        if found >= wanted:
            place = len(block)
            for _ in range(wanted):
                place = block.rfind(b"\n", 0, place)
            return begin + place + 1
        wanted -= found
        position = begin
    return 0
