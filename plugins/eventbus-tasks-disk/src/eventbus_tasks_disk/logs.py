"""The command ``ebt logs``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from eventbus_tasks import Settings, TaskNotFoundError
from eventbus_tasks_disk.cleaning import OutputCleaner
from eventbus_tasks_disk.commands import TaskLookupError, complain, find_entry, look_up
from eventbus_tasks_disk.history import Entry, summarize
from eventbus_tasks_disk.interleaving import Interleaving, StampedLine
from eventbus_tasks_disk.others import entry_of, follow_until_end, other_tasks
from eventbus_tasks_disk.printing import one_line, print_text
from eventbus_tasks_disk.storage import ARRIVALS, JOURNAL, LOGS, find_data

if TYPE_CHECKING:
    import argparse

__all__ = ["run_logs"]

_BLOCK: Final = 64 * 1024
# Seconds between two looks at a log that is followed (a line is seen within 10 ms), and between two
# at the task itself.
_LOOK: Final = 0.008
_ASK: Final = 0.25
_STAMP_LENGTH: Final = len("2026-11-27 12:00:00.000+00:00")


class _Sink(Protocol):
    def write(self, data: bytes, line: StampedLine | None = None) -> None:
        """Show bytes of a log: some, or one whole line."""

    def finish(self) -> None:
        """Show what was held back."""


class _Raw:
    """Passes bytes on as they are.

    Args:
        apart: Whether standard error goes to standard error.
    """

    def __init__(self, *, apart: bool) -> None:
        self._apart = apart

    def write(self, data: bytes, line: StampedLine | None = None) -> None:
        to = _outlet(line, apart=self._apart).buffer
        to.write(data)
        to.flush()

    def finish(self) -> None:
        """Nothing is held back."""


class _Cleaned:
    """Shows text that no terminal acts on.

    Args:
        apart: Whether standard error goes to standard error.
    """

    def __init__(self, *, apart: bool) -> None:
        self._apart = apart
        self._cleaners: defaultdict[TextIO, OutputCleaner] = defaultdict(OutputCleaner)

    def write(self, data: bytes, line: StampedLine | None = None) -> None:
        to = _outlet(line, apart=self._apart)
        self._print(self._cleaners[to].feed(data), to)

    def finish(self) -> None:
        for to, cleaner in self._cleaners.items():
            self._print(cleaner.finish(), to)

    def _print(self, text: str, to: TextIO) -> None:
        if text:
            print_text(text, to=to)
            to.flush()


def _outlet(line: StampedLine | None, *, apart: bool) -> TextIO:
    return sys.stderr if apart and line is not None and line.stream == "stderr" else sys.stdout


class _Stamped:
    """Puts before each line when it was complete.

    Args:
        sink: Shows the rest.
    """

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink

    def write(self, data: bytes, line: StampedLine | None = None) -> None:
        at = None if line is None else line.at
        if at is None:
            stamp = " " * _STAMP_LENGTH
        else:
            stamp = datetime.fromtimestamp(at).astimezone().isoformat(" ", "milliseconds")
        ended = data.endswith(b"\n")
        self._sink.write(f"{stamp}  ".encode() + data + b"\n" * (not ended), line)

    def finish(self) -> None:
        self._sink.finish()


def run_logs(arguments: argparse.Namespace) -> int:
    """Print the output of a task, and follow it if that is wanted."""
    try:
        entry = look_up(arguments.task)
    except TaskLookupError as error:
        return _run_logs_of_others(arguments, error)
    wanted = ["stdout", "stderr"] if arguments.stdout == arguments.stderr else []
    wanted += ["stdout"] * (not wanted and arguments.stdout)
    wanted += ["stderr"] * (not wanted and arguments.stderr)
    with contextlib.ExitStack() as stack:
        logs: dict[str, int] = {}
        for stream in wanted:
            try:
                log = _open_log(entry, LOGS[stream], wait=arguments.follow and not logs)
            except OSError as error:
                if len(wanted) == 2 and logs:
                    continue  # standard error is part of standard output
                return _complain(entry, stream, error)
            stack.callback(os.close, logs.setdefault(stream, log))
        index = None
        if len(logs) > 1 or arguments.timestamps:
            with contextlib.suppress(OSError):
                index = _open_log(entry, ARRIVALS, wait=False)
                stack.callback(os.close, index)
            if index is None and len(logs) > 1:
                del logs["stderr"]  # of a task that an earlier version has run
        apart = len(logs) > 1
        sink: _Sink = _Raw(apart=apart) if arguments.raw else _Cleaned(apart=apart)
        if arguments.timestamps:
            sink = _Stamped(sink)
        _print_logs(entry, logs, index, sink, arguments)
    return 0


def _run_logs_of_others(arguments: argparse.Namespace, error: TaskLookupError) -> int:
    """Do the same with a task that runs in a program without this plugin, if that is meant."""
    others = {task.ref.uid: task for task in other_tasks(Settings.load().state_dir)}
    if error.exit_code != 1 or not others:
        return complain(error)
    stderr_only = arguments.stderr and not arguments.stdout
    try:
        task = others[find_entry(map(entry_of, others.values()), arguments.task).uid]
        if arguments.timestamps:
            problem = f"of {one_line(task.ref.name)!r} no times are kept: its program keeps nothing"
            raise TaskLookupError(problem, 1)
        log = task.open_log("stderr" if stderr_only else "stdout")
    except TaskLookupError as other:
        return complain(other)
    except TaskNotFoundError:  # it has ended meanwhile, or has no such stream of its own
        return complain(error)
    try:
        sink: _Sink = _Raw(apart=False) if arguments.raw else _Cleaned(apart=False)
        start = 0 if arguments.lines is None else _start_of_last(log, arguments.lines)
        follower = _Plain(log, start, sink)
        if arguments.follow:
            follow_until_end(task, follower.show, _LOOK)
        follower.finish()
        sink.finish()
    finally:
        os.close(log)
    return 0


def _complain(entry: Entry, stream: str, error: OSError) -> int:
    if isinstance(error, FileNotFoundError) and summarize(entry).status != "gone":
        print_text(f"ebt: task {entry.id} has no {stream} of its own\n", to=sys.stderr)
    else:
        problem = f"the output of task {entry.id} is gone or out of reach"
        print_text(f"ebt: {problem}: {error.strerror}\n", to=sys.stderr)
    return 1


def _print_logs(
    entry: Entry,
    logs: Mapping[str, int],
    index: int | None,
    sink: _Sink,
    arguments: argparse.Namespace,
) -> None:
    count = arguments.lines
    # The last lines of all streams are among the last ones of each.
    starts = {} if count is None else {s: _start_of_last(log, count) for s, log in logs.items()}
    if len(logs) == 1 and not arguments.timestamps:
        ((stream, log),) = logs.items()
        follower: _Follower = _Plain(log, starts.get(stream, 0), sink)
    else:
        kept = None if count is None or len(logs) == 1 else count
        follower = _Interleaved(Interleaving(logs, index, starts), sink, keep=kept)
    if arguments.follow:
        _follow(entry, follower)
    follower.finish()
    sink.finish()


class _Follower(Protocol):
    def show(self) -> None:
        """Show what has come since the last call."""

    def finish(self) -> None:
        """Show the rest: nothing will come any more."""


class _Plain:
    """One log, as it grows."""

    def __init__(self, log: int, position: int, sink: _Sink) -> None:
        self._log = log
        self._position = position
        self._sink = sink

    def show(self) -> None:
        while True:
            begin, end = find_data(self._log, self._position)
            block = os.pread(self._log, min(_BLOCK, end - begin), begin)
            if not block:
                return
            self._sink.write(block)
            self._position = begin + len(block)

    def finish(self) -> None:
        self.show()


class _Interleaved:
    """The lines of all logs, in their order; at the first call only the last `keep` ones."""

    def __init__(self, lines: Interleaving, sink: _Sink, *, keep: int | None) -> None:
        self._lines = lines
        self._sink = sink
        self._keep = keep

    def show(self) -> None:
        self._show(self._lines.read())

    def finish(self) -> None:
        self._show(self._lines.finish())

    def _show(self, lines: Iterable[StampedLine]) -> None:
        if self._keep is not None:
            lines, self._keep = deque(lines, self._keep), None
        for line in lines:
            self._sink.write(line.data, line)


def _open_log(entry: Entry, suffix: str, *, wait: bool) -> int:
    """Open a log; one that may still come is waited for.

    Raises:
        OSError: There is none.
    """
    while True:
        try:
            return entry.open(suffix)
        except FileNotFoundError:
            # The task may wait for its turn, or be about to start.
            if not wait or summarize(entry).status not in ("pending", "queued"):
                raise
        time.sleep(_LOOK)


def _follow(entry: Entry, follower: _Follower) -> None:
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
            follower.show()
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
