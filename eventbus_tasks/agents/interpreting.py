"""The part of an interpreter that is the same for every agent which writes JSON lines."""

from __future__ import annotations

import abc
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from eventbus_tasks.agents.reading import one_line, parse_object
from eventbus_tasks.conversation import Send, Withdraw
from eventbus_tasks.events import AgentActivity, AgentEventUnknown, AgentResult
from eventbus_tasks.lines import decode_line
from eventbus_tasks.outcome import ProcessExit, Reason, Verdict
from eventbus_tasks.policies import Stream

__all__ = ["JsonLinesInterpreter", "unknown_event"]

_HINT: Final = 300
"""Characters of a line of plain text that are remembered."""

_KIND: Final = re.compile(r"[^\w./:-]+")


class JsonLinesInterpreter(abc.ABC):
    """Base of an `OutputInterpreter` for an agent that writes one JSON object in each line.

    Only lines of standard output that begin with ``{`` are read as JSON; other lines, and standard
    error, are remembered to explain a failure. A subclass implements `read`, and
    `judge` where the last result does not say everything; nothing
    that stands in a line should make them raise (see `eventbus_tasks.agents.text_in`).

    One object for each task; it is called on the engine's loop and never waits.
    """

    def __init__(self) -> None:
        self._cut = False  # the last line that should have been JSON was none
        self._stderr: deque[str] = deque(maxlen=5)
        self._noise = ""
        self._last_result: AgentResult | None = None

    def interpret(self, line: bytes, stream: Stream) -> Iterator[AgentActivity | Send | Withdraw]:
        """Return what one line means; see `OutputInterpreter`."""
        if stream == "stderr":
            hint = _hint(line)
            if hint:
                self._stderr.append(hint)
            return iter(())
        if not line.startswith(b"{"):
            self._noise = _hint(line) or self._noise
            return iter(())
        data = parse_object(line)
        self._cut = data is None
        if data is None:
            return iter((AgentEventUnknown(kind="unreadable"),))
        # A list, because the state must not depend on whether somebody iterates.
        found = list(self.read(data))
        for item in found:
            if isinstance(item, AgentResult) and not item.parent:
                self._last_result = item
        return iter(found)

    def verdict(self, exit: ProcessExit) -> Verdict:
        """Judge the run; see `OutputInterpreter`. Asks `judge`."""
        return self.judge(exit)

    @abc.abstractmethod
    def read(self, data: Mapping[str, Any]) -> Iterable[AgentActivity | Send | Withdraw]:
        """Return what one JSON object means, and what it calls for: to be implemented.

        Args:
            data: The object of one line.
        """

    def judge(self, exit: ProcessExit) -> Verdict:
        """Judge the finished run: by the last `AgentResult` that `read` has returned.

        Without one it is no success. To be replaced where an agent's own word is not enough:
        success must be said by the agent itself, and what it denies or leaves open is none.

        Args:
            exit: How the process ended.
        """
        result = self._last_result
        if result is None:
            return self.no_result(exit)
        if not result.ok:
            return Verdict(reason=Reason.AGENT_ERROR, message=one_line(result.text, _HINT))
        return Verdict(reason=Reason.EXITED, result=result.text)

    def no_result(
        self, exit: ProcessExit, what: str = "ended without a result", answer: str | None = None
    ) -> Verdict:
        """Return the verdict for a run whose final event is missing.

        Args:
            exit: How the process ended; is part of the message, as is the last line of text.
            what: What is missing, as the beginning of a sentence.
            answer: What there is of an answer.
        """
        code = exit.return_code
        if code is not None:
            what += f" (exit status {code})" if code >= 0 else f" (killed by signal {-code})"
        if self._cut:
            what += ", its last line is cut off"
        hint = self.hint
        message = f"{what}: {hint}" if hint else what
        return Verdict(reason=Reason.NO_RESULT, message=message, result=answer)

    @property
    def hint(self) -> str:
        """The last line of standard error, or else of other text, shortened; may be empty."""
        return self._stderr[-1] if self._stderr else self._noise

    @property
    def hints(self) -> tuple[str, ...]:
        """The last lines of standard error, shortened, oldest first; five at most."""
        return tuple(self._stderr)

    @property
    def is_cut(self) -> bool:
        """Whether the last line that should have been JSON was none."""
        return self._cut


def unknown_event(*parts: str) -> AgentEventUnknown:
    """Return the event for something that has no better name.

    Args:
        parts: The agent's own names for it, outer ones first; empty ones are left out.
    """
    words = (_KIND.sub("_", part[:100]) for part in parts if part)
    return AgentEventUnknown(kind="/".join(words))


def _hint(line: bytes) -> str:
    return one_line(decode_line(line[: _HINT * 8]), _HINT)
