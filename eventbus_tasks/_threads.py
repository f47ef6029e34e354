"""Calling code that may hang: in daemon threads, under a deadline.

A thread pool of a library waits for its threads when the interpreter ends, so one hook that
never returns would keep the program from ending. These threads are abandoned instead.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import anyio

from eventbus_tasks._native import absorb, loop_caller, wait_at_most

__all__ = [
    "CallFailedError",
    "DaemonPool",
    "DeadlineExceededError",
    "NoWorkerError",
    "call_with_deadline",
]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

T = TypeVar("T")

PATIENCE: Final = 0.005
"""Seconds that a brief call holds up the next one at most."""


class DeadlineExceededError(Exception):
    """A call did not return in time; it goes on in an abandoned thread."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return f"did not return within {self.seconds:g} s"


class NoWorkerError(OSError):
    """No call was made: there is no thread to be had."""


class CallFailedError(Exception):
    """A call raised something that is no `Exception`, such as `SystemExit`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class _Job:
    """One call, and what wakes whoever waits for it when it has returned."""

    def __init__(self, function: Callable[[], Any], wake: Callable[[], object]) -> None:
        self._function = function
        self._wake = wake
        self._lock = threading.Lock()
        self._finished = False
        self._abandoned = False
        self._undo: Callable[[Any], None] | None = None
        self.value: Any = None
        self.error: BaseException | None = None

    def execute(self) -> None:
        """Make the call, in the thread."""
        try:
            self.value = self._function()
        except Exception as error:  # handed over to whoever waits
            self.error = error
        except BaseException as error:
            # SystemExit and the like must end neither this thread nor, later, an event loop.
            self.error = CallFailedError(type(error).__name__, str(error))
            self.error.__cause__ = error

    def report(self) -> None:
        """Wake whoever waits, or clean up when nobody does any more."""
        with self._lock:
            self._finished = True
            abandoned = self._abandoned
        if abandoned:
            self._clean_up(self._undo)
            return
        try:
            self._wake()
        except RuntimeError:
            pass  # the loop is closed: `release` comes when what waited there is thrown away

    def release(self, undo: Callable[[Any], None] | None) -> None:
        """Clean up, now or in the thread: nobody waits any more."""
        with self._lock:
            finished = self._finished
            if not finished:
                self._abandoned = True
                self._undo = undo
        if finished:
            self._clean_up(undo)

    def _clean_up(self, undo: Callable[[Any], None] | None) -> None:
        if undo is not None and self.error is None:
            try:
                undo(self.value)
            except Exception:
                logger.exception("the late result %r could not be undone", self.value)


class _BriefCalls:
    """Has brief calls made one after the other, but for those that turn out to wait.

    The interpreter runs one thread at a time. One that computes holds up the event loop until it
    is asked to let go, 5 ms later, and so does each of dozens, one after the other: with 64 starts
    at once the loop lagged by 100 ms. One thread that often lets go, as for a file, hardly counts.
    But a call that waits for something, such as a slow disk, must not hold up the others.
    """

    def __init__(self) -> None:
        self._first: anyio.Lock | None = None  # made within the loop
        self._running: object = None
        self._ended: anyio.Event | None = None

    async def begin(self) -> object:
        """Return what `end` is called with, once the call before has ended or seems to wait."""
        if self._first is None:
            self._first = anyio.Lock(fast_acquire=True)
        async with self._first:
            if self._running is not None:
                self._ended = anyio.Event()
                await wait_at_most(PATIENCE, self._ended)
            self._running = call = object()
        return call

    def end(self, call: object) -> None:
        """Let the next one begin, unless it has begun already."""
        if self._running is call:
            self._running = None
            if self._ended is not None:
                self._ended.set()


class DaemonPool:
    """Daemon threads that run one call each at a time; as many as there are calls."""

    def __init__(self, name: str = "eventbus-tasks worker") -> None:
        self._name = name
        self._brief = _BriefCalls()
        self._idle: list[SimpleQueue[_Job | None]] = []
        self._lock = threading.Lock()
        self._closed = False

    async def run(
        self,
        function: Callable[[], T],
        *,
        deadline: float,
        undo: Callable[[T], None] | None = None,
        endures: bool = False,
        brief: bool = False,
        meanwhile: Callable[[], object] | None = None,
    ) -> T:
        """Run a function in a thread and return what it returns.

        Args:
            function: What to run.
            deadline: Seconds to wait for it.
            undo: Called, in any thread, with the result when nobody waits for it any more, because
                the deadline had passed or the caller was cancelled.
            endures: Whether to wait on through native cancellation; only in a shielded scope.
            brief: Whether it usually returns within a millisecond: such calls are made one after
                the other, as long as none takes longer than `PATIENCE`. The deadline begins with
                the call. Does not go with `endures`.
            meanwhile: Called here as soon as the call is under way: what has to be done anyway, and
                takes no longer than a thread takes to wake up. What it raises is raised.

        Raises:
            DeadlineExceededError: It did not return in time.
            CallFailedError: It raised something that is no `Exception`.
            NoWorkerError: There is no thread to be had; nothing was called.
            Exception: Whatever else it raised.

        Cancellation: takes effect at once; the thread goes on, and its result goes to `undo`.
        """
        if brief:
            call = await self._brief.begin()
            try:
                return await self.run(function, deadline=deadline, undo=undo, meanwhile=meanwhile)
            finally:
                self._brief.end(call)
        returned = anyio.Event()
        call_in_loop = loop_caller()
        job = _Job(function, lambda: call_in_loop(returned.set))
        self._submit(job)
        released = False
        try:
            if meanwhile is not None:
                meanwhile()
            with anyio.move_on_after(deadline) as scope:
                while True:
                    try:
                        await returned.wait()
                        break
                    except anyio.get_cancelled_exc_class():
                        if scope.cancel_called or not endures:
                            raise
                        absorb()
                released = True
                if job.error is not None:
                    raise job.error
                result: T = job.value
                return result
        finally:
            if not released:
                job.release(undo)
        raise DeadlineExceededError(deadline)

    def close(self) -> None:
        """Let idle threads end; those that are busy end when their call returns."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for queue in idle:
            queue.put(None)

    def _submit(self, job: _Job) -> None:
        with self._lock:
            queue = self._idle.pop() if self._idle else None
        if queue is None:
            queue = SimpleQueue()
            worker = threading.Thread(
                target=self._work, args=(queue,), name=self._name, daemon=True
            )
            try:
                worker.start()
            except RuntimeError as error:
                # Python has no better word for what the kernel answers, which is this.
                raise NoWorkerError(
                    errno.EAGAIN, f"no thread could be started ({error})"
                ) from error
        queue.put(job)

    def _work(self, queue: SimpleQueue[_Job | None]) -> None:
        while (job := queue.get()) is not None:
            job.execute()
            with self._lock:
                closed = self._closed
                if not closed:
                    # Before the report, so that the next call finds this thread.
                    self._idle.append(queue)
            job.report()
            if closed:
                return


def call_with_deadline(function: Callable[[], T], seconds: float) -> T:
    """Run a function in a daemon thread and wait for it, blocking.

    Raises:
        DeadlineExceededError: It did not return in time.
        BaseException: Whatever the function raised.
    """
    outcome: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((True, function()))
        except BaseException as error:  # handed over to the caller
            outcome.put((False, error))

    thread = threading.Thread(target=run, name="eventbus-tasks call", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise DeadlineExceededError(seconds)
    ok, value = outcome.get()
    if not ok:
        raise value
    result: T = value
    return result
