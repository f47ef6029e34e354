"""`Task`: one accepted piece of work, as its users see it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.lowlevel

from eventbus_tasks._delivery import in_receiver
from eventbus_tasks._input import TaskInput
from eventbus_tasks.errors import InputClosedError
from eventbus_tasks.lifecycle import Input, LifeState, step
from eventbus_tasks.lines import LogLine, LogLines
from eventbus_tasks.outcome import Outcome, Reason, TaskStatus
from eventbus_tasks.output import TaskOutput
from eventbus_tasks.policies import Stream
from eventbus_tasks.request import TaskRef, TaskRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from eventbus_tasks._dialogue import Dialogue
    from eventbus_tasks.conversation import AgentAnswer
    from eventbus_tasks.events import AgentInputRequired
    from eventbus_tasks.settings import Settings

__all__ = ["Task"]


class TaskControl(Protocol):
    """What a task asks of its engine."""

    def request_stop(self, task: Task, reason: Reason, *, now: bool) -> bool:
        """Begin to end the task; return whether that can still change anything."""


class Task:
    """One accepted piece of work. Live, and read-only for its users.

    Made by ``TaskEngine.spawn_task``. All methods belong to the engine's loop.

    Attributes:
        ref: Who the task is, as plain data; events carry the same.
        request: What was asked for.
        settings: The settings that apply to its project.
        output: Everything it has written so far.
        created_at: When it was accepted, in UTC.
        started_at: When its program was executed, or ``None``.
        completed_at: When it ended, or ``None``.
        pid: Process number of its program, once executed.
    """

    def __init__(
        self,
        *,
        ref: TaskRef,
        request: TaskRequest,
        settings: Settings,
        control: TaskControl,
    ) -> None:
        self.ref = ref
        self.request = request
        self.settings = settings
        self.output: TaskOutput = TaskOutput()
        self.created_at: datetime = datetime.now(UTC)
        self.started_at: datetime | None = None
        self.completed_at: datetime | None = None
        self.pid: int | None = None
        self._control = control
        self._life = LifeState()
        self._input = TaskInput()
        self._session_id = ""
        self._dialogue: Dialogue | None = None  # with an agent that is talked to
        self._outcome: Outcome | None = None
        self._return_code: int | None = None
        self._settled = anyio.Event()  # the outcome is fixed
        self._delivered = anyio.Event()  # and every receiver has had it
        self._abandoned = False  # its event loop has ended: nobody will set anything any more

    @property
    def id(self) -> int:
        """Its number in the engine."""
        return self.ref.id

    @property
    def uid(self) -> str:
        """A UUID that never collides."""
        return self.ref.uid

    @property
    def name(self) -> str:
        """The name it was given."""
        return self.ref.name

    @property
    def agent(self) -> str:
        """The agent that does the work."""
        return self.ref.agent

    @property
    def prompt(self) -> str:
        """What the agent was told."""
        return self.request.prompt

    @property
    def project_dir(self) -> Path:
        """The absolute project directory."""
        return self.request.project_dir

    @property
    def session_id(self) -> str:
        """The session of its agent in which it works, as far as that is known; may be empty.

        ``spawn_task(…, resume=task)`` goes on with it.
        """
        return self._session_id or self.request.resume

    @property
    def status(self) -> TaskStatus:
        """Where it is in its life."""
        return self._life.status

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, or ``None`` while it has not."""
        return self._outcome

    @property
    def return_code(self) -> int | None:
        """Exit status of its program, the negative number of a signal, or ``None``."""
        return self._return_code

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self.status.is_terminal

    async def wait(self) -> Outcome:
        """Wait for the end and return the outcome.

        Returns once the whole family of processes is gone, the output is complete, and every
        receiver of the terminal event has had it (those that take too long are not waited
        for). Inside a receiver it returns as soon as the outcome is fixed.

        Cancellation: ends the waiting, not the task.
        """
        if not self._abandoned:
            await (self._settled if in_receiver.get() else self._delivered).wait()
        assert self._outcome is not None  # set before either event
        return self._outcome

    async def lines(self, start: int = 0, stream: Stream = "stdout") -> AsyncIterator[LogLine]:
        """Iterate over the lines of a stream, those that are there and those to come.

        Reads the log itself, so any number of readers may go as slowly as they like, and each
        has every line once, in order. Ends after the last line of the task.

        Args:
            start: Offset of the beginning of the first line; ``line.end`` of the last line seen
                goes on where an earlier iteration has stopped.
            stream: Which stream.

        Raises:
            OutputUnavailableError: The log is gone.

        Cancellation: ends the iteration.
        """
        output = self.output
        lines: LogLines | None = None
        position = start
        while True:
            complete = output._complete
            end = output.size(stream)
            while position < end:
                if lines is None:
                    lines = LogLines(start, 1 + output._count_lines(start, stream))
                first, data = output._next_piece(position, end, stream)
                if not data:
                    break
                position = first + len(data)
                for line in lines.feed(first, data):
                    yield line
                await anyio.lowlevel.checkpoint()
            if complete:
                break
            if output.size(stream) == end and not output._complete:
                await output._wait_for_more()
        for line in lines.finish() if lines is not None else ():
            yield line

    async def send(self, data: bytes | str) -> None:
        """Give a running agent its next prompt, or write bytes to a program that has input open.

        Waits until the task has been started, and then until the kernel has taken every byte: a
        program that does not read makes its senders wait (a pipe holds 64 KiB). Overlapping
        calls are carried out one after the other, never mixed.

        Args:
            data: Text: the next prompt for an agent that is talked to, in whatever protocol it
                speaks; it works on it when the turn at hand has ended. Bytes: written to standard
                input (``stdin="open"``) as they are.

        Raises:
            InputClosedError: It was not opened, was closed, the task has ended, or nobody reads; or
                text for something that takes no prompts, or is being stopped.

        Cancellation: ends the waiting; it may have been written, bytes also in part.
        """
        if isinstance(data, str):
            await (await self._conversation()).say(data)
        elif self._dialogue is None:
            await self._input.send(data)
        else:
            await self._dialogue.write(data)

    async def answer(self, request: AgentInputRequired | str, answer: AgentAnswer) -> None:
        """Answer what the agent has asked with an `AgentInputRequired`; the first answer counts.

        Args:
            request: The event, or its `request_id`, unless the agent has used that name before: an
                answer never reaches another request than the one it was given for.
            answer: ``Allow()`` or ``Deny("why")`` for a permission, ``Answer("text")`` or
                ``Deny()`` for a question.

        Raises:
            RequestClosedError: Somebody, or the deadline, was faster; or it is of no concern any
                more; or nothing of the kind was asked.
            ValueError: The answer does not fit the request.
            TypeError: It is no answer at all.
            InputClosedError: The agent is not talked to, or has ended.

        Cancellation: ends the waiting; the answer counts.
        """
        await (await self._conversation()).answer(request, answer)

    async def interrupt(self) -> None:
        """Have an agent end the turn at hand and its tools; its session goes on.

        Returns when the agent was told. That it has ended its turn is told by an `AgentResult`.

        Raises:
            InputClosedError: The agent is not talked to, or has ended.

        Cancellation: ends the waiting; the agent may have been told.
        """
        await (await self._conversation()).interrupt()

    async def _conversation(self) -> Dialogue:
        await self._input.decided()
        if self._dialogue is None:
            raise InputClosedError("the task takes bytes at most: nobody is talked to")
        return self._dialogue

    def resize(self, columns: int, lines: int) -> None:
        """Give a task at a terminal of its own (``capture="pty"``) another size of that.

        The kernel tells the program (``SIGWINCH``). Nothing happens when the task has ended.

        Raises:
            InputClosedError: It has no terminal, or has not been started.
            ValueError: The terminal cannot have that size.
        """
        if not (0 < columns < 1 << 16 and 0 < lines < 1 << 16):
            raise ValueError(f"not a size of a terminal: {columns} columns, {lines} lines")
        if self._input.resize is None:
            raise InputClosedError("the task has no terminal of its own (yet)")
        self._input.resize(columns, lines)

    async def close_input(self) -> None:
        """Let the task read the end of its standard input, behind everything that was sent.

        Does nothing where it is closed already, or was never open. It is closed by itself when
        the task or its engine ends.

        Cancellation: leaves it open if others are still sending.
        """
        if self._dialogue is None:
            await self._input.close()
        else:
            await self._dialogue.close()

    def cancel_nowait(self, *, now: bool = False) -> bool:
        """Begin to end the task, and return at once.

        Args:
            now: Skip the polite rungs of the ladder: SIGKILL.

        Returns:
            Whether it can still change the outcome: ``False`` once the program has exited.
        """
        return self._control.request_stop(self, Reason.CANCELLED, now=now)

    async def cancel(self, *, now: bool = False) -> bool:
        """End the task, and wait until nothing of it is left.

        Calls that overlap share one ladder; another one with `now` may only shorten it.

        Returns:
            Whether the task ended because it was cancelled.

        Cancellation: ends the waiting; the task is still being ended.
        """
        self.cancel_nowait(now=now)
        outcome = await self.wait()
        return outcome.reason is Reason.CANCELLED

    def _step(self, happened: Input, reason: Reason | None = None) -> None:
        self._life = step(self._life, happened, reason)

    def __repr__(self) -> str:
        return f"<Task {self.id} {self.name!r} {self.status}>"
