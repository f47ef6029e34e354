"""What the runs of one engine share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from eventbus_tasks._pump import OutputPump

if TYPE_CHECKING:
    from eventbus_tasks._bus import Bus
    from eventbus_tasks.plugins import PluginHost
    from eventbus_tasks.settings import Settings
    from eventbus_tasks.task import Task

__all__ = ["Services"]

T = TypeVar("T")


class Services:
    """What the runs of one engine share."""

    def __init__(
        self,
        *,
        bus: Bus,
        plugins: PluginHost,
        settings: Settings,
        warden: Callable[[], Any],
    ) -> None:
        self.bus = bus
        self.plugins = plugins
        self.settings = settings
        self.warden = warden  # async: returns a living WardenClient
        self.pump = OutputPump()
        self._retained: deque[Task] = deque()

    async def open(
        self, opening: Callable[[], T], *, undo: Callable[[T], None], meanwhile: Callable[[], None]
    ) -> T:
        """Open something in a worker thread, and do something else here meanwhile."""
        opened: T = await self.plugins.run(
            opening,
            deadline=self.settings.hook_deadline,
            undo=undo,
            brief=True,
            meanwhile=meanwhile,
        )
        return opened

    def retain(self, task: Task) -> None:
        """Keep the whole unnamed log of an ended task, and shorten that of the oldest one.

        Each unnamed log that is kept whole costs a descriptor.
        """
        self._retained.append(task)
        if len(self._retained) > self.settings.retained_logs:
            self._retained.popleft().output.shorten()

    def forget(self, task: Task) -> None:
        """Do not keep anything for a task that was removed."""
        if task in self._retained:
            self._retained.remove(task)
