"""Conformance of what keeps a task: output stores and journals."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from eventbus_tasks import (
    Command,
    Journal,
    OutputStore,
    Stream,
    Task,
    TaskCancelled,
    TaskCompleted,
    TaskEvent,
    TaskFailed,
    TaskStatus,
)
from eventbus_tasks.testing._contract import Bench, Contract, StandIn, open_bench
from eventbus_tasks.testing.puppet import Puppet

__all__ = ["JournalCase", "JournalContract", "OutputStoreContract", "StoreCase"]

_BINARY: Final = bytes(range(256)) * 4
_ENDS: Final = frozenset({TaskCompleted.name, TaskFailed.name, TaskCancelled.name})


@dataclass(frozen=True, kw_only=True)
class StoreCase:
    """A plugin that answers ``ebt_output_log``.

    Attributes:
        plugin: The plugin: a module or an object.
        tables: Settings of plugins: objects of the dataclasses that they have declared.
    """

    plugin: object
    tables: tuple[object, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JournalCase:
    """A plugin that answers ``ebt_open_journal``.

    Attributes:
        plugin: The plugin: a module or an object.
        read: Reads the events of an ended task back from where the journal has put them, in
            order. Without it only what the engine sees is tested.
        tables: Settings of plugins: objects of the dataclasses that they have declared.
    """

    plugin: object
    read: Callable[[Task], Sequence[TaskEvent]] | None = None
    tables: tuple[object, ...] = ()


@asynccontextmanager
async def _bench_with(
    case: StoreCase | JournalCase, tmp_path: Path, *puppets: Puppet, stderr: Any = "merge"
) -> AsyncIterator[Bench]:
    """Run an engine with the tested plugin and one agent, ``puppet-N``, for each puppet."""
    plugins: dict[str, object] = {"tested": case.plugin}
    for number, puppet in enumerate(puppets):

        def command(task: Task, puppet: Puppet = puppet) -> Command:
            return Command(argv=puppet.argv, stderr=stderr)

        plugins[f"stand-in-{number}"] = StandIn(f"puppet-{number}", command)
    async with open_bench(plugins, tmp_path, case.tables) as bench:
        yield bench


class OutputStoreContract(Contract):
    """What every plugin with ``ebt_output_log`` keeps.

    Subclass it, and give it a fixture ``case`` that returns a `StoreCase`.
    """

    async def test_store_is_asked(self, case: StoreCase, project: Path, tmp_path: Path) -> None:
        """The plugin has a store for a plain task."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet) as bench:
                task = await bench.engine.spawn_task("store", "go", project, agent="puppet-0")
                await puppet.connected()
                store = await bench.ask("ebt_output_log", task)
                assert isinstance(store, OutputStore), f"not an OutputStore: {store!r}"
                puppet.exit(0)
                bench.check(task, await task.wait())

    async def test_every_byte_is_kept(self, case: StoreCase, project: Path, tmp_path: Path) -> None:
        """Bytes of every value are read back as they were written, megabytes of them."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet) as bench:
                task = await bench.engine.spawn_task("store", "go", project, agent="puppet-0")
                await puppet.connected()
                puppet.say(b"first\n")
                puppet.say(_BINARY, times=2000)
                puppet.say(b"no line ending")
                puppet.exit(0)
                outcome = await task.wait()
                bench.check(task, outcome)
                assert outcome.persist_error is None, outcome.persist_error
                assert task.output.read() == b"first\n" + _BINARY * 2000 + b"no line ending"

    @pytest.mark.parametrize("stderr", ["merge", "separate"])
    async def test_streams(
        self, case: StoreCase, project: Path, tmp_path: Path, stderr: str
    ) -> None:
        """Two streams are kept apart where that is asked for, and in one log where not."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet, stderr=stderr) as bench:
                task = await bench.engine.spawn_task("store", "go", project, agent="puppet-0")
                await puppet.connected()
                puppet.say("out\n")
                puppet.say("err\n", stream="stderr")
                puppet.exit(0)
                outcome = await task.wait()
                bench.check(task, outcome)
                assert outcome.persist_error is None, outcome.persist_error
                if stderr == "separate":
                    assert task.output.read() == b"out\n"
                    assert task.output.read(stream="stderr") == b"err\n"
                else:
                    assert task.output.streams == ("stdout",)
                    assert task.output.read() == b"out\nerr\n"

    async def test_silent_task(self, case: StoreCase, project: Path, tmp_path: Path) -> None:
        """A task that writes nothing has an empty log."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet) as bench:
                task = await bench.engine.spawn_task("store", "go", project, agent="puppet-0")
                await puppet.connected()
                puppet.exit(3)
                outcome = await task.wait()
                bench.check(task, outcome)
                assert outcome.persist_error is None, outcome.persist_error
                assert task.output.read() == b""

    async def test_tasks_do_not_mix(self, case: StoreCase, project: Path, tmp_path: Path) -> None:
        """Tasks at the same time, and one after the other in one project, have their own logs."""
        with Puppet() as first, Puppet() as second, Puppet() as third:
            other = tmp_path / "other"
            other.mkdir()
            async with _bench_with(case, tmp_path, first, second, third) as bench:
                tasks = [
                    await bench.engine.spawn_task("same", "go", project, agent="puppet-0"),
                    await bench.engine.spawn_task("same", "go", other, agent="puppet-1"),
                ]
                for puppet, word in ((first, "one"), (second, "two"), (first, "three")):
                    if not puppet.is_connected:
                        await puppet.connected()
                    puppet.say(f"{word}\n")
                for puppet, task in zip((first, second), tasks, strict=True):
                    puppet.exit(0)
                    await task.wait()
                tasks.append(await bench.engine.spawn_task("same", "go", project, agent="puppet-2"))
                await third.connected()
                third.say("four\n")
                third.exit(0)
                await tasks[2].wait()
                read = [task.output.read() for task in tasks]
                assert read == [b"one\nthree\n", b"two\n", b"four\n"]
                assert not bench.failures, bench.failures

    async def test_named_files_are_private(
        self, case: StoreCase, project: Path, tmp_path: Path
    ) -> None:
        """A log that has a name is a regular file of its owner's alone, and holds every byte."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet, stderr="separate") as bench:
                task = await bench.engine.spawn_task("store", "go", project, agent="puppet-0")
                await puppet.connected()
                puppet.say("out\n")
                puppet.say("err\n", stream="stderr")
                puppet.exit(0)
                bench.check(task, await task.wait())
                wanted: tuple[tuple[Stream, bytes], ...] = (
                    ("stdout", b"out\n"),
                    ("stderr", b"err\n"),
                )
                for stream, data in wanted:
                    path = task.output.path(stream)
                    if path is None:
                        continue
                    status = os.lstat(path)
                    assert stat.S_ISREG(status.st_mode), f"{path} is no regular file"
                    assert not status.st_mode & 0o077, f"others may use {path}"
                    with open(path, "rb") as file:  # noqa: ASYNC230
                        assert file.read() == data


class JournalContract(Contract):
    """What every plugin with ``ebt_open_journal`` keeps.

    Subclass it, and give it a fixture ``case`` that returns a `JournalCase`.
    """

    def _check_record(self, case: JournalCase, bench: Bench, task: Task) -> None:
        """Compare what was kept with what was told."""
        if case.read is None:
            return
        kept = [event.to_dict() for event in case.read(task)]
        assert [data["seq"] for data in kept] == list(range(1, len(kept) + 1)), "there are gaps"
        told = [event.to_dict() for event in bench.events_of(task) if event.journaled]
        # Output that nobody has taken yet is merged on its way to receivers, not in the journal.
        plain = [data for data in told if not data["event"].startswith("output.")]
        assert [data for data in kept if not data["event"].startswith("output.")] == plain
        ends = [number for number, data in enumerate(kept) if data["event"] in _ENDS]
        assert ends == [len(kept) - 1], "the terminal event is not the one and last"

    async def test_journal_is_asked(self, case: JournalCase, project: Path, tmp_path: Path) -> None:
        """Every event of a plain task is written, without gaps, the end last."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet) as bench:
                task = await bench.engine.spawn_task("journal", "go", project, agent="puppet-0")
                await puppet.connected()
                puppet.say("hello\n")
                puppet.exit(0)
                outcome = await task.wait()
                bench.check(task, outcome)
                assert outcome.persist_error is None, outcome.persist_error
                self._check_record(case, bench, task)

    async def test_object_has_every_method(
        self, case: JournalCase, project: Path, tmp_path: Path
    ) -> None:
        """The answer for a task is a `Journal`."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet) as bench:
                reports = {item.name: item for item in bench.engine.plugin_reports()}
                assert "ebt_open_journal" in reports["tested"].hooks
                task = await bench.engine.spawn_task("journal", "go", project, agent="puppet-0")
                await puppet.connected()
                puppet.exit(0)
                bench.check(task, await task.wait())
                journal = await bench.ask("ebt_open_journal", task)
                assert isinstance(journal, Journal), f"not a Journal: {journal!r}"
                journal.close()

    @pytest.mark.parametrize("end", ["failure", "cancel", "timeout", "no program"])
    async def test_every_end_is_written(
        self, case: JournalCase, project: Path, tmp_path: Path, end: str
    ) -> None:
        """Whatever ends a task, its journal is complete."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet) as bench:
                if end == "no program":
                    task = await bench.engine.spawn_task(
                        "journal", argv=["/no/such/program"], project_dir=project
                    )
                else:
                    limit = 0.5 if end == "timeout" else None
                    task = await bench.engine.spawn_task(
                        "journal", "go", project, agent="puppet-0", timeout=limit
                    )
                    await puppet.connected()
                if end == "failure":
                    puppet.exit(3)
                elif end == "cancel":
                    await task.cancel()
                outcome = await task.wait()
                bench.check(task, outcome)
                assert outcome.status is not TaskStatus.COMPLETED
                assert outcome.persist_error is None, outcome.persist_error
                self._check_record(case, bench, task)

    async def test_any_text_is_written(
        self, case: JournalCase, project: Path, tmp_path: Path
    ) -> None:
        """Names and prompts of any form survive."""
        with Puppet() as puppet:
            async with _bench_with(case, tmp_path, puppet) as bench:
                task = await bench.engine.spawn_task(
                    "größer / ..\n\u2028 \x1b[31m \U0001f600",
                    "line\nline\r\n" * 1000,
                    project,
                    agent="puppet-0",
                    options={"deep": {"list": [1, 2.5, None, "\U0001f600"]}},
                )
                await puppet.connected()
                puppet.exit(0)
                outcome = await task.wait()
                bench.check(task, outcome)
                assert outcome.persist_error is None, outcome.persist_error
                self._check_record(case, bench, task)

    async def test_journals_do_not_mix(
        self, case: JournalCase, project: Path, tmp_path: Path
    ) -> None:
        """Tasks at the same time have journals of their own."""
        other = tmp_path / "other"
        other.mkdir()
        with Puppet() as first, Puppet() as second:
            async with _bench_with(case, tmp_path, first, second) as bench:
                tasks = [
                    await bench.engine.spawn_task("same", "go", project, agent="puppet-0"),
                    await bench.engine.spawn_task("same", "go", other, agent="puppet-1"),
                ]
                for puppet in (first, second):
                    await puppet.connected()
                    puppet.say("hello\n")
                for puppet, task in zip((first, second), tasks, strict=True):
                    puppet.exit(0)
                    outcome = await task.wait()
                    assert outcome.persist_error is None, outcome.persist_error
                for task in tasks:
                    self._check_record(case, bench, task)
