"""The host of the plugins: finds them, loads each by itself, and asks their hooks.

Nothing that a plugin does wrong reaches beyond it: a broken one is reported with its reason,
and the others work. Hooks are asked one implementation at a time, because pluggy's own loop
ends at the first exception.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import pluggy

from eventbus_tasks import hookspecs
from eventbus_tasks._native import error_text, redeliver
from eventbus_tasks._threads import (
    DaemonPool,
    DeadlineExceededError,
    NoWorkerError,
    call_with_deadline,
)
from eventbus_tasks.errors import PluginError
from eventbus_tasks.events import TaskEvent, register_event
from eventbus_tasks.settings import Settings

if TYPE_CHECKING:
    import argparse

    from eventbus_tasks.agents import AgentHealth
    from eventbus_tasks.running import TaskRecord

__all__ = ["CommandContribution", "Failure", "PluginHost", "PluginReport"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")

# Reports a failed hook: (where, what, overran).
Failure = Callable[[str, str, bool], None]

CHECK_DEADLINE: Final = 30.0
"""Seconds for a plugin to say whether its agent can work."""

_CONTRIBUTING: Final = (
    "ebt_register_agents",
    "ebt_register_events",
    "ebt_register_settings",
    "ebt_register_commands",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginReport:
    """What is known about one plugin.

    Attributes:
        name: Its name: of the entry point, or given at registration.
        distribution: The distribution that it came with, or ``""``.
        version: Version of that distribution, or ``""``.
        state: ``"active"``, ``"disabled"`` or ``"broken"``.
        reason: Why it is not active.
        hooks: The hooks that it implements, sorted.
        builtin: It is part of the core.
    """

    name: str
    distribution: str = ""
    version: str = ""
    state: str = "active"
    reason: str = ""
    hooks: tuple[str, ...] = ()
    builtin: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        data = {name: getattr(self, name) for name in self.__slots__}
        data["hooks"] = list(self.hooks)
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandContribution:
    """A command that a plugin adds to ``ebt``.

    Attributes:
        name: Its name on the command line.
        help: One line.
        configure: Adds arguments to the parser, and sets ``run`` as a default.
        plugin: Whose command it is.
    """

    name: str
    help: str
    configure: Callable[[argparse.ArgumentParser], Any]
    plugin: str


class PluginHost:
    """The plugins of one engine, or of the command line.

    Args:
        settings: Which plugins are wanted, and their deadlines.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._reports: dict[str, PluginReport] = {}
        self._builtins: set[str] = set()
        self._pool = DaemonPool("eventbus-tasks hook")
        self.agents: dict[str, str] = {}
        self.resuming: set[str] = set()
        self.tables: dict[str, type] = {}
        self.commands: dict[str, CommandContribution] = {}

    @property
    def reports(self) -> tuple[PluginReport, ...]:
        """What is known about every plugin: builtins first, then by name."""
        return tuple(
            sorted(self._reports.values(), key=lambda report: (not report.builtin, report.name))
        )

    def register(self, plugin: object, name: str, *, builtin: bool = False) -> PluginReport:
        """Add a plugin object; it is asked before those that were added earlier.

        Raises:
            PluginError: It is broken: says why. Nothing of it stays active.
        """
        report = self._register(plugin, name, None, builtin=builtin)
        if report.state == "broken":
            raise PluginError(name, report.reason)
        return report

    def load_builtins(self) -> None:
        """Add what the core itself answers; every plugin is asked before."""
        from eventbus_tasks import builtin

        for name, plugin in builtin.plugins():
            self._builtins.add(name)
            self.register(plugin, name, builtin=True)

    def load_installed(self) -> None:
        """Add every installed plugin that is wanted. Never raises for a broken one."""
        found: dict[str, metadata.EntryPoint] = {}
        doubles: list[tuple[metadata.EntryPoint, str]] = []
        for entry in sorted(
            metadata.entry_points(group=hookspecs.PROJECT),
            key=lambda entry: (entry.name, _distribution(entry)),
        ):
            if entry.name in self._reports or entry.name in found:
                other = found.get(entry.name)
                doubles.append((entry, "the core" if other is None else _distribution(other)[0]))
            else:
                found[entry.name] = entry
        first = [name for name in self._settings.plugin_order if name in found]
        rest = [name for name in found if name not in first]
        # What is registered last is asked first.
        for name in reversed([*first, *rest]):
            self._load(found[name])
        for entry, owner in doubles:
            self._broken(entry.name, entry, f"the name is taken already, by {owner}")

    def _load(self, entry: metadata.EntryPoint) -> None:
        reason = self._unwanted(entry.name)
        if reason:
            distribution, version = _distribution(entry)
            self._reports[entry.name] = PluginReport(
                name=entry.name,
                distribution=distribution,
                version=version,
                state="disabled",
                reason=reason,
            )
            return
        try:
            plugin = call_with_deadline(entry.load, self._settings.import_deadline)
        except BaseException as error:  # SystemExit at import is a broken plugin, too
            if isinstance(error, KeyboardInterrupt):
                raise
            self._broken(entry.name, entry, f"import failed: {type(error).__name__}: {error}")
            return
        self._register(plugin, entry.name, entry)

    def _unwanted(self, name: str) -> str:
        if name in self._settings.disable_plugins:
            return "disabled by EBT_DISABLE_PLUGINS or the setting disable_plugins"
        if self._settings.plugins is not None and name not in self._settings.plugins:
            return "not in the list of EBT_PLUGINS or the setting plugins"
        return ""

    def _broken(
        self, name: str, entry: metadata.EntryPoint | None, reason: str, *, builtin: bool = False
    ) -> PluginReport:
        distribution, version = _distribution(entry)
        logger.warning("plugin %r of %s is broken: %s", name, distribution or "the program", reason)
        key = name if name not in self._reports else f"{name} of {distribution}"
        report = self._reports[key] = PluginReport(
            name=name,
            distribution=distribution,
            version=version,
            state="broken",
            reason=reason,
            builtin=builtin,
        )
        return report

    def _register(
        self,
        plugin: object,
        name: str,
        entry: metadata.EntryPoint | None,
        *,
        builtin: bool = False,
    ) -> PluginReport:
        if name in self._reports:
            other = self._reports[name].distribution or "the program"
            raise PluginError(name, f"the name is taken already, by {other}")
        problem = _misspelt(plugin)
        if problem:
            return self._broken(name, entry, problem, builtin=builtin)
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
            self._collect(plugin, name)
        except BaseException as error:
            redeliver(error)
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            return self._broken(name, entry, _plain(error), builtin=builtin)
        distribution, version = _distribution(entry)
        report = self._reports[name] = PluginReport(
            name=name,
            distribution=distribution,
            version=version,
            hooks=tuple(sorted(caller.name for caller in self._hooks_of(plugin))),
            builtin=builtin,
        )
        return report

    def _hooks_of(self, plugin: object) -> list[pluggy.HookCaller]:
        return self._manager.get_hookcallers(plugin) or []

    def _collect(self, plugin: object, name: str) -> None:
        """Take over what a plugin contributes, all of it or nothing.

        Raises:
            Exception: Whatever is wrong with a contribution.
        """
        agents: dict[str, str] = {}
        resuming: set[str] = set()
        tables: dict[str, type] = {}
        commands: dict[str, CommandContribution] = {}
        event_types: list[type[TaskEvent]] = []

        def add_agent(agent: str, description: str, *, resumes: bool = False) -> None:
            agents[agent] = description
            if resumes:
                resuming.add(agent)

        def add_table(table: str, declared: type) -> None:
            if table in self.tables:
                raise PluginError(name, f"the settings table {table!r} is taken already")
            if not (isinstance(declared, type) and dataclasses.is_dataclass(declared)):
                raise PluginError(name, f"the settings table {table!r} must be a dataclass")
            declared()  # every key needs a default
            tables[table] = declared

        def add_command(command: str, help: str, configure: Callable[..., Any]) -> None:
            if command in self.commands:
                raise PluginError(name, f"the command {command!r} is taken already")
            commands[command] = CommandContribution(
                name=command, help=help, configure=configure, plugin=name
            )

        registers = (add_agent, event_types.append, add_table, add_command)
        for hook, register in zip(_CONTRIBUTING, registers, strict=True):
            implementation = self._implementation(hook, plugin)
            if implementation is not None:
                call = functools.partial(_call, implementation, {"register": register})
                call_with_deadline(call, self._settings.hook_deadline)
        for event_type in event_types:
            register_event(event_type)
        self.agents.update(agents)
        self.resuming.update(resuming)
        self.tables.update(tables)
        self.commands.update(commands)

    def check_agents(self, settings: Settings | None = None) -> tuple[AgentHealth, ...]:
        """Ask the plugins whether their agents can work, all at once; blocks, up to 30 s.

        Nobody's model is asked. An agent whose plugin does not say is left out, and one whose
        plugin fails has that as its problem.

        Args:
            settings: With the tables of the plugins; the user's own by default.

        Returns:
            One for each agent, by name.

        Raises:
            SettingsError: The user's settings are wrong.
        """
        from eventbus_tasks.agents import AgentHealth

        known = settings or Settings.load(tables=self.tables)
        names = sorted(self.agents)
        found: dict[str, AgentHealth | None] = {}

        def check(agent: str) -> None:
            arguments = {"agent": agent, "settings": known}
            for implementation in self._implementations("ebt_check_agent"):
                try:
                    call = functools.partial(_call, implementation, arguments)
                    answer = call_with_deadline(call, CHECK_DEADLINE)
                    if answer is not None and not isinstance(answer, AgentHealth):
                        raise TypeError(f"must return an AgentHealth or None, not {answer!r}")
                except Exception as error:
                    problem = f"plugin {implementation.plugin_name}: {_plain(error)}"
                    answer = AgentHealth(agent=agent, problems=(problem,))
                if answer is not None:
                    found[agent] = answer
                    return

        threads = [threading.Thread(target=check, args=(name,), daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return tuple(health for name in names if (health := found.get(name)) is not None)

    def _implementation(self, hook: str, plugin: object) -> pluggy.HookImpl | None:
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is plugin:
                found: pluggy.HookImpl = implementation
                return found
        return None

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        # pluggy keeps the one to be asked first at the end. What the core answers comes last,
        # behind plugins that want to be asked late, too.
        found = list(reversed(getattr(self._manager.hook, hook).get_hookimpls()))
        return sorted(found, key=lambda one: one.plugin_name in self._builtins)

    def answers(self, hook: str) -> bool:
        """Whether there is anybody to ask a hook."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    async def ask(
        self,
        hook: str,
        arguments: Mapping[str, Any],
        *,
        failed: Failure,
        check: Callable[[Any], None] | None = None,
        undo: Callable[[Any], None] | None = None,
    ) -> Any:
        """Ask the implementations of a hook, one after the other, for the first answer.

        Each runs in a worker thread under the deadline of the settings; only the core's own, which
        touch neither disk nor network, are called here and now. One that raises, overruns, or
        answers what `check` refuses is reported to `failed`, and the next is asked.

        Args:
            hook: Name of the hook.
            arguments: Its arguments.
            failed: Gets ``(where, what, overran)``.
            check: Raises for an answer that cannot be used.
            undo: Gets an answer that came after its deadline.

        Returns:
            The first answer that is not ``None``, or ``None``.

        Raises:
            NoWorkerError: Nobody could be asked: there is no thread to be had.
        """
        for implementation in self._implementations(hook):
            where = f"hook {hook} of plugin {implementation.plugin_name}"
            call = functools.partial(_call, implementation, arguments)
            try:
                if implementation.plugin_name in self._builtins:
                    answer = call()
                else:
                    deadline = self._settings.hook_deadline
                    answer = await self._pool.run(call, deadline=deadline, undo=undo, brief=True)
                if answer is not None and check is not None:
                    check(answer)
            except DeadlineExceededError as error:
                failed(where, str(error), True)
                continue
            except NoWorkerError:
                raise
            except Exception as error:
                logger.warning("%s failed", where, exc_info=error)
                failed(where, error_text(error), False)
                continue
            if answer is not None:
                return answer
        return None

    async def run(
        self,
        function: Callable[[], Any],
        *,
        deadline: float,
        undo: Callable[[Any], None] | None = None,
        endures: bool = False,
        brief: bool = False,
        meanwhile: Callable[[], object] | None = None,
    ) -> Any:
        """Run a function of a plugin's object in a worker thread, like a hook.

        Args:
            function: What to run.
            deadline: Seconds to wait for it.
            undo: Gets what it returns when nobody waits for that any more.
            endures: Whether to wait on through native cancellation; only in a shielded scope.
            brief: Whether it usually returns within a millisecond; see `DaemonPool.run`.
            meanwhile: What is done here until it returns; see there.

        Raises:
            DeadlineExceededError: It did not return in time.
            NoWorkerError: There is no thread to be had.
            Exception: Whatever it raised.
        """
        return await self._pool.run(
            function,
            deadline=deadline,
            undo=undo,
            endures=endures,
            brief=brief,
            meanwhile=meanwhile,
        )

    def tell(self, hook: str, arguments: Mapping[str, Any], *, failed: Failure) -> None:
        """Call every implementation of a hook, here and now, each isolated."""
        for implementation in self._implementations(hook):
            try:
                _call(implementation, arguments)
            except BaseException as error:
                redeliver(error)
                where = f"hook {hook} of plugin {implementation.plugin_name}"
                logger.warning("%s failed", where, exc_info=error)
                failed(where, error_text(error), False)

    def describe(self, event: TaskEvent) -> str:
        """Say an event in one short sentence (``ebt_describe``); ``""`` if nobody can."""
        for implementation in self._implementations("ebt_describe"):
            try:
                answer = _call(implementation, {"event": event})
            except BaseException as error:
                redeliver(error)
                where = f"hook ebt_describe of plugin {implementation.plugin_name}"
                logger.warning("%s failed", where, exc_info=error)
                continue
            if isinstance(answer, str) and answer:
                return answer
        return ""

    def task_records(self) -> Iterator[TaskRecord]:
        """Yield what plugins have recorded of tasks (``ebt_task_records``), plugin by plugin."""
        for implementation in self._implementations("ebt_task_records"):
            try:
                yield from _call(implementation, {}) or ()
            except Exception:
                where = f"hook ebt_task_records of plugin {implementation.plugin_name}"
                logger.warning("%s failed", where, exc_info=True)

    def close(self) -> None:
        """Let the worker threads end."""
        self._pool.close()


def _call(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    values = [arguments[name] for name in implementation.argnames]
    answer = implementation.function(*values)
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError("hooks are synchronous: return an object with async methods instead")
    return answer


def _misspelt(plugin: object) -> str:
    """Say what looks like a hook but is none, and which one may be meant."""
    known = [name for name in dir(hookspecs) if name.startswith("ebt_")]
    for name in dir(plugin):
        if name.startswith("ebt_") and name not in known:
            marked = hasattr(getattr(plugin, name, None), f"{hookspecs.PROJECT}_impl")
            close = difflib.get_close_matches(name, known, n=1)
            if marked or close:
                hint = f"; did you mean {close[0]!r}?" if close else ""
                return f"there is no hook {name!r}{hint}"
    return ""


def _plain(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return error.problem
    if isinstance(error, pluggy.PluginValidationError):
        return " ".join(str(error).split())
    return error_text(error)


def _distribution(entry: metadata.EntryPoint | None) -> tuple[str, str]:
    if entry is None or entry.dist is None:
        return "", ""
    return entry.dist.name, entry.dist.version
