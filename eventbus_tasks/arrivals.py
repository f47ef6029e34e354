"""The order in which the output of a task has arrived: for plugins that keep it.

A store that answers `LogFiles.arrivals` gets the index written beside its logs; this reads it.
"""

from __future__ import annotations

from eventbus_tasks._process.arrival import Arrival, ArrivalReader

__all__ = ["Arrival", "ArrivalReader"]
