"""Tests of the two ways in which output is handed out: as events of ranges, or as lines at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import (
    HandlerFailed,
    LogFiles,
    OutputLine,
    OutputReceived,
    TaskEvent,
    TaskOutput,
)
from eventbus_tasks._bus import Bus
from eventbus_tasks._chronicle import Chronicle
from eventbus_tasks._following import OutputFollower
from eventbus_tasks._pump import Turn
from eventbus_tasks.lines import decode_lines
from eventbus_tasks.request import TaskRef


class Scene:
    """A task that writes what the test writes, and one receiver of lines."""

    def __init__(self, receiver: Callable[[OutputLine], object] | None = None) -> None:
        self.log = os.memfd_create("log")
        self.written = b""
        self.lines: list[OutputLine] = []
        self.ranges: list[OutputReceived] = []  # of which there was an event
        self.failures: list[Any] = []
        self.bus = Bus()
        output = TaskOutput()
        output.attach(LogFiles(stdout=self.log))
        ref = TaskRef(id=1, uid="u", name="t", agent="command", project_dir="/p")
        task = cast("Any", SimpleNamespace(ref=ref, output=output, agent="command"))
        self.chronicle = Chronicle(task, self.bus, self.failures.append)
        self.follower = OutputFollower(
            task, self.bus, self.emit, self.chronicle.emit_lines, lambda *what: None
        )
        self.follower.attach()
        self.bus.signal(OutputLine).connect(receiver or self.lines.append)

    def emit(self, event: TaskEvent) -> None:
        """Emit an event of a range, in the long way."""
        assert isinstance(event, OutputReceived)
        self.chronicle.emit(event)
        self.ranges.append(event)

    def write(self, data: bytes) -> None:
        """Write to the log, as the task's guardian does."""
        os.pwrite(self.log, data, len(self.written))
        self.written += data

    def turn(self, *, news: bool = False) -> None:
        """Hand out everything."""
        while self.follower.turn(lambda: news, lambda: None) is Turn.MORE:
            pass

    def close(self) -> None:
        """Hand out the last line too, and assert that nothing is missing and nothing twice."""
        self.turn()
        self.follower.end()
        texts = list(decode_lines(self.written, last=True))
        assert [line.text for line in self.lines] == texts
        assert [line.number for line in self.lines] == list(range(1, len(texts) + 1))
        numbers = [line.seq for line in self.lines]
        assert numbers == sorted(numbers)
        told = b""
        seq = 0
        for event in self.chronicle.history.between(0, self.chronicle.seq):
            assert isinstance(event, OutputReceived)
            assert (event.first_seq or event.seq) == seq + 1
            seq = event.seq
            told += event.data
        assert (seq, told) == (self.chronicle.seq, self.written)
        assert not self.failures
        self.chronicle._task.output.close()


def _steps() -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Return what may happen: mostly whole lines, and who looks at them comes and goes."""
    whole = st.lists(st.sampled_from([b"a\n", b"\n", b"\xe4\n", b"b\r\n", "\u20ac\n".encode()]))
    parts = st.sampled_from([b"c", b"\r", b"\xe2\x82", b"d\ne"])
    return st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.one_of(whole.map(b"".join), parts)),
            st.tuples(st.just("turn"), st.booleans()),
            st.tuples(st.just("watch"), st.none()),
            st.tuples(st.just("leave"), st.none()),
        ),
        max_size=40,
    )


@given(_steps())
def test_both_ways_tell_the_same(steps: list[tuple[str, Any]]) -> None:
    """Whoever else looks at output, and when: each line is told once, and a replay has it all."""
    scene = Scene()
    watched: list[OutputReceived] = []
    leave: list[Callable[[], object]] = []
    for what, how in steps:
        if what == "write":
            scene.write(how)
        elif what == "turn":
            scene.turn(news=how)
        elif what == "watch":
            leave.append(scene.bus.signal(OutputReceived).connect(watched.append).close)
        elif leave:
            leave.pop()()
    scene.close()
    assert {event.start for event in watched} <= {event.start for event in scene.ranges}


def test_lines_need_no_event_of_their_range() -> None:
    """With one receiver of lines, an event is made of the first range only."""
    scene = Scene()
    for number in range(100):
        scene.write(b"line %d\n" % number)
        scene.turn()
    assert len(scene.ranges) == 1
    scene.close()


def test_what_is_no_whole_line_goes_the_long_way() -> None:
    """The beginning of a line, its end, and news of the guardian make events of ranges."""
    scene = Scene()
    for data, news in ((b"a\n", False), (b"b", False), (b"c\n", False), (b"d\n", True)):
        scene.write(data)
        scene.turn(news=news)
    assert [event.start for event in scene.ranges] == [0, 2, 3, 5]
    scene.close()


def test_receivers_that_cause_events_do_not_get_ahead() -> None:
    """What a receiver of a line causes is told when it has returned, also in the short way."""
    order: list[str] = []

    def cause(line: OutputLine) -> None:
        if line.text == "second":
            scene.bus.report("somewhere", "went wrong", line.task, seq=line.seq)
        order.append(line.text)

    scene = Scene(cause)
    scene.bus.signal(HandlerFailed).connect(lambda event: order.append(event.name))
    for text in (b"first\n", b"second\n"):
        scene.write(text)
        scene.turn()
    assert order == ["first", "second", "handler.failed"]
    assert len(scene.ranges) == 1
