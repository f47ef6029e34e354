"""The numbered scenarios: what happens, what must hold, and where it can be provoked."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.faults.suite.outside import HostProcess
    from tests.faults.suite.scene import Scene

__all__ = ["AREAS", "BOTH", "Scenario", "everything", "find", "not_here", "scenario"]

AREAS: Final = ("spawn", "stream", "terminate", "persist", "plugins", "host", "inputs", "together")
"""The modules that hold the scenarios, in the order of the table."""

BOTH: Final = ("asyncio", "trio")
"""For scenarios in which the event loop has a part; the others run on asyncio alone, by day."""

Play = Callable[["Scene"], "Awaitable[str] | str"]
Direct = Callable[["HostProcess"], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One fault, provoked.

    Attributes:
        number: As in the plan of the suite: a letter for the area, and a number.
        title: What is done to the engine.
        required: What must hold.
        play: Runs in a fresh host process, and returns what it has seen; sync ones run a loop of
            their own.
        direct: Runs outside of it, at the same time, for hosts that do not survive; returns what
            was seen.
        backends: Event loops on which it runs by day.
        needs: What the machine must offer: ``root``, ``userns``, ``strace``, ``disk`` (the plugin).
        lossy: Whether output may be lost, so that the ledgers of the agents are no measure.
        leaky: Whether the host leaves something behind on purpose.
        survivors: Whether processes may outlive their task.
        fixed: Whether it runs on those event loops only, by night, too.
        wrap: Command in which the host is started.
        bug: What is wrong in the engine, while it is: then the scenario has to fail.
        reason: Why it cannot be provoked here; there is nothing to run then.
    """

    number: str
    title: str
    required: str
    play: Play | None = None
    direct: Direct | None = None
    backends: tuple[str, ...] = ("asyncio",)
    needs: tuple[str, ...] = ()
    lossy: bool = False
    leaky: bool = False
    survivors: bool = False
    fixed: bool = False
    wrap: tuple[str, ...] = ()
    bug: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return self.number


_known: dict[str, Scenario] = {}


def _add(made: Scenario) -> None:
    assert made.number not in _known, f"two scenarios {made.number}"
    _known[made.number] = made


class _Maker:
    """What a decorated scene becomes: it takes the part outside, where there is one."""

    def __init__(self, number: str) -> None:
        self._number = number

    def direct(self, function: Direct) -> Direct:
        """Add the part that runs outside of the host."""
        _known[self._number] = replace(_known[self._number], direct=function)
        return function


def scenario(
    number: str,
    title: str,
    required: str,
    *,
    backends: tuple[str, ...] = ("asyncio",),
    needs: tuple[str, ...] = (),
    lossy: bool = False,
    leaky: bool = False,
    survivors: bool = False,
    fixed: bool = False,
    wrap: tuple[str, ...] = (),
    bug: str = "",
) -> Callable[[Play], _Maker]:
    """Register a function as the part of a scenario that runs in the host; see `Scenario`."""

    def register(play: Play) -> _Maker:
        _add(
            Scenario(
                number=number,
                title=title,
                required=required,
                play=play,
                backends=backends,
                needs=needs,
                lossy=lossy,
                leaky=leaky,
                survivors=survivors,
                fixed=fixed or not inspect.iscoroutinefunction(play),
                wrap=wrap,
                bug=bug,
            )
        )
        return _Maker(number)

    return register


def not_here(number: str, title: str, required: str, reason: str) -> None:
    """Register a scenario that cannot be provoked here, and say why."""
    _add(Scenario(number=number, title=title, required=required, reason=reason))


def everything() -> list[Scenario]:
    """Return every scenario, in the order of the table."""
    for area in AREAS:
        importlib.import_module(f"tests.faults.suite.{area}")
    letters = "STKPBHIC"
    return sorted(_known.values(), key=lambda one: (letters.index(one.number[0]), one.number))


def find(number: str) -> Scenario:
    """Return the scenario of a number.

    Raises:
        KeyError: There is none.
    """
    everything()
    return _known[number]
