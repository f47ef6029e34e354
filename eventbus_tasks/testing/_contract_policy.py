"""Conformance of termination policies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eventbus_tasks import (
    Command,
    Reason,
    SignalSent,
    Task,
    TaskStatus,
    TaskStopping,
    TerminationPolicy,
)
from eventbus_tasks.testing._contract import Bench, Contract, StandIn, open_bench
from eventbus_tasks.testing.puppet import Puppet

__all__ = ["PolicyCase", "TerminationPolicyContract"]

_LONGEST: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class PolicyCase:
    """A plugin that answers ``ebt_termination_policy``, and for whom.

    Attributes:
        plugin: The plugin: a module or an object.
        agent: An agent for which it has a policy.
        tables: Settings of plugins: objects of the dataclasses that they have declared.
    """

    plugin: object
    agent: str = "command"
    tables: tuple[object, ...] = ()


class TerminationPolicyContract(Contract):
    """What every plugin with ``ebt_termination_policy`` keeps.

    Subclass it, and give it a fixture ``case`` that returns a `PolicyCase`. The agent is played
    by a puppet, so that the policy alone is tested.
    """

    @asynccontextmanager
    async def _playing(
        self, case: PolicyCase, project: Path, tmp_path: Path
    ) -> AsyncIterator[tuple[Bench, Task, Puppet]]:
        """Run a puppet as the agent, under the policy."""
        with Puppet() as puppet:

            def command(task: Task) -> Command:
                return Command(argv=puppet.argv)

            plugins = {"tested": case.plugin, "stand-in": StandIn(case.agent, command)}
            async with open_bench(plugins, tmp_path, case.tables) as bench:
                task = await bench.engine.spawn_task(
                    "policy", "go", project, agent=case.agent, argv=puppet.argv
                )
                await puppet.connected()
                yield bench, task, puppet

    async def test_answer_is_data(self, case: PolicyCase, project: Path, tmp_path: Path) -> None:
        """There is a policy for the agent, and it is data that survives the way to the guardian."""
        async with self._playing(case, project, tmp_path) as (bench, task, puppet):
            policy = await bench.ask("ebt_termination_policy", task)
            assert isinstance(policy, TerminationPolicy), f"not a TerminationPolicy: {policy!r}"
            assert TerminationPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
            puppet.exit(0)
            bench.check(task, await task.wait())

    async def test_somebody_waits_for_the_end(
        self, case: PolicyCase, project: Path, tmp_path: Path
    ) -> None:
        """All rungs together take no longer than a person, or a shutdown, has patience."""
        async with self._playing(case, project, tmp_path) as (bench, task, puppet):
            policy = await bench.ask("ebt_termination_policy", task)
            longest = sum(step.grace for step in policy.steps) + policy.kill_wait + policy.drain
            assert longest <= _LONGEST, f"a stubborn task would take {longest:g} s to end"
            puppet.exit(0)
            await task.wait()

    async def test_unknown_agents_are_endured(
        self, case: PolicyCase, project: Path, tmp_path: Path
    ) -> None:
        """For an agent that nobody has heard of there is an answer or none, but no error."""
        stranger = PolicyCase(plugin=case.plugin, agent="nobody-knows-me", tables=case.tables)
        async with self._playing(stranger, project, tmp_path) as (bench, task, puppet):
            puppet.exit(0)
            outcome = await task.wait()
            bench.check(task, outcome)
            assert outcome.status is TaskStatus.COMPLETED, outcome

    async def test_cancel(self, case: PolicyCase, project: Path, tmp_path: Path) -> None:
        """A cancel climbs the ladder, and nothing of the family is left."""
        async with self._playing(case, project, tmp_path) as (bench, task, puppet):
            puppet.spawn()
            puppet.spawn(session=True)
            policy = await bench.ask("ebt_termination_policy", task)
            assert await task.cancel()
            outcome = await task.wait()
            bench.check(task, outcome)
            assert outcome.reason is Reason.CANCELLED, outcome
            assert not puppet.living()
            events = bench.events_of(task)
            assert any(isinstance(event, TaskStopping) for event in events)
            sent = [event.signal for event in events if isinstance(event, SignalSent)]
            if policy.steps:
                assert sent[0] == policy.steps[0].signal, f"the first rung is another: {sent}"

    async def test_impatient_cancel(self, case: PolicyCase, project: Path, tmp_path: Path) -> None:
        """A stubborn family, daemons included, is gone after a second cancel."""
        async with self._playing(case, project, tmp_path) as (bench, task, puppet):
            ignored = [1, 2, 15]
            puppet.ignore(*ignored)
            puppet.spawn(session=True, ignore=ignored)
            puppet.spawn(daemon=True, ignore=ignored, wipe_environment=True)
            assert task.cancel_nowait()
            assert await task.cancel(now=True)
            outcome = await task.wait()
            bench.check(task, outcome)
            assert not puppet.living()
            assert outcome.survivors == ()

    async def test_leftovers(self, case: PolicyCase, project: Path, tmp_path: Path) -> None:
        """What a normal exit leaves is ended, or named, as the policy says."""
        async with self._playing(case, project, tmp_path) as (bench, task, puppet):
            policy = await bench.ask("ebt_termination_policy", task)
            left = puppet.spawn(session=True, hold_output=False)
            puppet.exit(0)
            outcome = await task.wait()
            bench.check(task, outcome)
            named = [one.pid for one in outcome.survivors]
            if policy.after_exit == "kill":
                assert not puppet.living()
                assert named == []
            else:
                assert named == [left.pid]
                left.kill()

    async def test_limit_of_a_request(
        self, case: PolicyCase, project: Path, tmp_path: Path
    ) -> None:
        """The time limit of a request counts, whatever the policy says."""
        with Puppet() as puppet:

            def command(task: Task) -> Command:
                return Command(argv=puppet.argv)

            plugins = {"tested": case.plugin, "stand-in": StandIn(case.agent, command)}
            async with open_bench(plugins, tmp_path, case.tables) as bench:
                task = await bench.engine.spawn_task(
                    "limit",
                    "go",
                    project,
                    agent=case.agent,
                    argv=puppet.argv,
                    timeout=0.2,
                )
                outcome = await task.wait()
                bench.check(task, outcome)
                assert outcome.reason is Reason.TIMED_OUT, outcome
