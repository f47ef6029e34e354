"""The events of one task: numbered, written to its journal, remembered, and told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from eventbus_tasks._history import LIMIT, History, Replay
from eventbus_tasks._native import error_text, redeliver
from eventbus_tasks.events import TaskEvent, TaskRemoved
from eventbus_tasks.policies import Journal, ReadableJournal

if TYPE_CHECKING:
    from eventbus_tasks._bus import Bus
    from eventbus_tasks._delivery import Delivery
    from eventbus_tasks.output import StreamCursor
    from eventbus_tasks.signals import Subscription
    from eventbus_tasks.task import Task

__all__ = ["Chronicle"]


class Chronicle:
    """Everything that has happened to one task, in order.

    Args:
        task: The task.
        bus: Tells everybody.
        failed: Told what is wrong with the journal.
    """

    def __init__(self, task: Task, bus: Bus, failed: Callable[[str], None]) -> None:
        self.seq: int = 0
        self.journal: Journal | None = None
        self.history: History = History()
        self._task: Final = task
        self._bus: Final = bus
        self._failed: Final = failed

    def write_to(self, journal: Journal | None) -> None:
        """Write all that follows to a journal, if there is one."""
        self.journal = journal
        if isinstance(journal, ReadableJournal):
            self.history = History(LIMIT)

    def go_on_after(self, seq: int) -> None:
        """Continue the story of another host, whose last number was `seq`."""
        self.seq = self.history.last = seq
        self.history.first_kept = seq + 1

    def emit(self, event: TaskEvent, *, at: datetime | None = None) -> list[Delivery]:
        """Number an event that was made just now, write it to the journal, then tell everybody."""
        self.record(event, at=at)
        return self.tell(event)

    def record(self, event: TaskEvent, *, at: datetime | None = None) -> None:
        """Number an event that was made just now, and write it to the journal."""
        self.seq += 1
        event._stamp_here(self._task.ref, self.seq, at or datetime.now(UTC))
        if self.journal is not None:
            try:
                self.journal.append((event,))
            except BaseException as error:
                self._failed(f"journal: {error_text(error)}")
                redeliver(error)

    def tell(self, event: TaskEvent) -> list[Delivery]:
        """Tell everybody, and remember it for those who come later."""
        self.history.add(event)
        return self._bus.emit(event, self._task)

    def emit_lines(self, receiver: Subscription, cursor: StreamCursor, data: bytes) -> bool:
        """Do what `emit` does with the range of some whole lines, without the event for it.

        Args:
            receiver: The only one who looks at output.
            cursor: Where the lines begin; it is moved behind them.
            data: The lines.

        Returns:
            Whether that can be; otherwise nothing has happened.
        """
        if self.journal is not None:
            return False
        stream, start = cursor.stream, cursor.position
        seq, at, end = self.seq + 1, datetime.now(UTC), start + len(data)
        if not self.history.extend(seq, stream, start, end, start, at):
            return False
        self.seq = seq
        cursor.pass_lines(data)
        task = self._task
        self._bus.emit_lines(
            receiver, data, start, task=task.ref, seq=seq, at=at, stream=stream, source=task.output
        )
        return True

    def replay(self, after: int) -> Replay:
        """Return what was told so far, from `after` on."""
        return Replay(self.history, self.journal, self._task.output, after=after)

    def emit_removed(self) -> None:
        """Tell that the task was removed. Its journal has ended: the event only goes around."""
        event = TaskRemoved().stamp(self._task.ref, self.seq, datetime.now(UTC))
        self._bus.emit(event, self._task)
