"""T: what a task writes, however it does that."""

from __future__ import annotations

import anyio

from eventbus_tasks import OutputLine, OutputReceived, Reason, TaskEvent
from tests.faults.suite.books import until_true
from tests.faults.suite.registry import BOTH, scenario
from tests.faults.suite.scene import Scene, quick, until


class Lines:
    """Receives every line."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: OutputLine) -> None:
        self.texts.append(event.text)


@scenario("T01", "20,000 lines", "all of them, in order", backends=BOTH)
async def many_lines(scene: Scene) -> str:
    lines = Lines()
    async with scene.engine() as engine:
        engine.signals.output_line.connect(lines)
        await scene.run(engine, scene.project(), "lines(20000)")
    numbers = [int(text.split(":")[1]) for text in lines.texts]
    assert numbers == list(range(1, 20001))
    return f"{len(numbers)} lines told in {len(scene.of(OutputReceived))} chunks"


@scenario("T02", "no newline at the end", "the last line is delivered, too")
async def no_newline(scene: Scene) -> str:
    lines = Lines()
    async with scene.engine() as engine:
        engine.signals.output_line.connect(lines)
        task, _ = await scene.run(engine, scene.project(), "out(b'a\\nb')")
        assert task.output.tail() == ["a", "b"]
    assert lines.texts == ["a", "b"]
    return "a, b"


@scenario("T03", "a line of 5 MB", "no byte is lost, later lines come")
async def long_line(scene: Scene) -> str:
    lines = Lines()
    async with scene.engine() as engine:
        engine.signals.output_line.connect(lines)
        code = "out(b'x' * 5_000_000 + b'\\n'); lines(10)"
        task, _ = await scene.run(engine, scene.project(), code)
        assert task.output.size() > 5_000_000
    assert lines.texts[0] == "x" * 5_000_000
    assert len(lines.texts) == 11
    return "a line of 5,000,000 bytes and 10 more"


@scenario(
    "T04",
    "invalid UTF-8, NUL, a split euro sign, CR, terminal controls",
    "three lines, no error; bytes in the log unaltered",
)
async def odd_bytes(scene: Scene) -> str:
    lines = Lines()
    project = scene.project()
    code = (
        "out(b'\\xff\\x00\\xfe\\n\\xe2'); flag('up'); wait('go');"
        "out(b'\\x82\\xac\\n\\x1b]52;c;eA==\\x07\\rx\\n')"
    )
    async with scene.engine() as engine:
        engine.signals.output_line.connect(lines)
        task = await scene.start(engine, project, code)
        await until(lambda: task.output.size() == 5, "the first bytes")
        project.flag("go")
        await task.wait()
        raw = task.output.read()
    assert raw == b"\xff\x00\xfe\n\xe2\x82\xac\n\x1b]52;c;eA==\x07\rx\n"
    assert len(lines.texts) == 3
    assert lines.texts[1] == "€"
    return repr(lines.texts)


async def _held(scene: Scene, how: str) -> str:
    project = scene.project()
    async with scene.engine() as engine:
        _, outcome = await scene.run(engine, project, f"child({how}); lines(3)")
        assert not project.alive
    assert outcome.reason is Reason.EXITED
    return f"exited, {len(set(project.members))} processes of the family gone"


@scenario("T05", "a child in the group holds stdout", "it ends in seconds, the holder is gone")
async def group_holds(scene: Scene) -> str:
    return await _held(scene, "")


@scenario("T06", "a daemon that ignores TERM holds stdout", "the same")
async def daemon_holds(scene: Scene) -> str:
    return await _held(scene, "daemon=True, stubborn=True")


@scenario("T07", "a daemon without environment holds stdout", "the same")
async def wiped_holds(scene: Scene) -> str:
    return await _held(scene, "daemon=True, stubborn=True, wiped=True")


@scenario("T08", "a child writes after the leader's exit", "delivered, within the grace")
async def late_lines(scene: Scene) -> str:
    project = scene.project()
    code = "child(lambda: (wait('go'), lines(5)))"
    async with scene.engine() as engine:
        task = await scene.spawn(engine, project, code, policy=quick(exit_grace=20.0))
        await until(lambda: task.return_code is not None, "the leader's exit")
        project.flag("go")
        outcome = await task.wait()
        assert len(task.output.tail()) == 5
    assert outcome.reason is Reason.EXITED
    return "5 lines after the leader's exit"


@scenario("T09", "the child closes its output and lives on", "the end is the exit: code 4")
async def closes_output(scene: Scene) -> str:
    project = scene.project()
    code = "lines(1); os.close(1); os.close(2); flag('up'); wait('go'); os._exit(4)"
    async with scene.engine() as engine:
        task = await scene.start(engine, project, code)
        await anyio.sleep(0.1)  # it does not end by that
        assert task.is_running
        project.flag("go")
        outcome = await task.wait()
    assert outcome.return_code == 4
    return "4"


@scenario("T10", "stdout and stderr in turns", "the order of writing is kept")
async def order(scene: Scene) -> str:
    code = "for n in range(500): out(b'o%d\\n' % n); out(b'e%d\\n' % n, 2)"
    async with scene.engine() as engine:
        task, _ = await scene.run(engine, scene.project(), code)
        found = task.output.text().split()
    assert found == [f"{stream}{n}" for n in range(500) for stream in "oe"]
    return "1,000 lines, in order"


@scenario("T11", "half a line, a pause, the rest", "one line; the half is visible before")
async def partial_line(scene: Scene) -> str:
    lines = Lines()
    project = scene.project()
    async with scene.engine() as engine:
        engine.signals.output_line.connect(lines)
        code = "out(b'par'); flag('up'); wait('go'); out(b'tial\\n')"
        task = await scene.start(engine, project, code)
        await until(lambda: task.output.tail() == ["par"], "the half")
        assert not lines.texts
        project.flag("go")
        await task.wait()
    assert lines.texts == ["partial"]
    return "par, then one line: partial"


@scenario("T12", "100,000 progress updates by CR", "a bounded number of events, one line")
async def progress_bars(scene: Scene) -> str:
    lines = Lines()
    async with scene.engine() as engine:
        engine.signals.output_line.connect(lines)
        code = "for n in range(100000): os.write(1, b'\\r%5d%%' % n)"
        task, _ = await scene.run(engine, scene.project(), code)
        assert task.output.size() == 700_000
    events = len(scene.of(OutputReceived))
    assert len(lines.texts) == 1
    assert events < 10_000, events
    return f"{events} events, 1 line"


@scenario("T13", "a byte per millisecond; 1 MiB in one write", "the same lines, however cut")
async def chunks(scene: Scene) -> str:
    found: list[list[str]] = []
    data = "b'one\\ntwo \\xe2\\x82\\xac\\n\\nfour\\r\\nfive'"
    async with scene.engine() as engine:
        for n, code in enumerate(
            (
                f"for byte in {data}: out(bytes([byte])); time.sleep(0.001)",
                f"out({data})",
                "out(b'x' * 1023 + b'\\n' * 1)" + "; out((b'y' * 1023 + b'\\n') * 1024)",
            )
        ):
            lines = Lines()
            with engine.signals.output_line.connect(lines):
                await scene.run(engine, scene.project(f"project-{n}"), code)
            found.append(lines.texts)
    assert found[0] == found[1] == ["one", "two €", "", "four", "five"]
    assert len(found[2]) == 1025
    assert {len(text) for text in found[2]} == {1023}
    return "5 lines both times; 1,025 lines"


@scenario("T14", "the child makes its stdout non-blocking", "no byte is lost")
async def non_blocking(scene: Scene) -> str:
    code = """
import select
os.set_blocking(1, False)
data = memoryview(b"0123456789" * 100000)
waits = 0
while data:
    try:
        data = data[os.write(1, data):]
    except BlockingIOError:
        waits += 1
        select.select([], [1], [])
flag("waits", str(waits))
"""
    project = scene.project()
    async with scene.engine() as engine:
        task, _ = await scene.run(engine, project, code)
        assert task.output.read() == b"0123456789" * 100000
    return f"1,000,000 bytes; the pipe was full {project.text('waits')} times"


@scenario(
    "T15",
    "the host reads nothing while the child writes 8 MB (its loop is blocked)",
    "the child is not slowed: it finishes meanwhile; nothing is lost",
    backends=BOTH,
)
async def reader_behind(scene: Scene) -> str:
    project = scene.project()
    blocked = 0

    def block(event: TaskEvent) -> None:
        nonlocal blocked
        if not blocked:
            blocked = 1
            until_true(lambda: project.has("done"), "the end of the child")

    async with scene.engine() as engine:
        engine.signals.output_received.connect(block)
        code = "lines(10); out(b'y' * 7_999_999 + b'\\n'); lines(10); flag('done')"
        task, outcome = await scene.run(engine, project, code)
        assert task.output.size() >= 8_000_000
    assert blocked
    assert outcome.reason is Reason.EXITED
    return f"{task.output.size()} bytes, all written while the loop was blocked"
