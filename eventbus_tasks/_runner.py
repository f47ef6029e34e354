"""Drives one task from its acceptance to its end. One `TaskRun` for each task."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.lowlevel

from eventbus_tasks import events
from eventbus_tasks._answers import (
    check_command,
    check_journal,
    check_policy,
    check_store,
    close_notes,
    close_opened,
    close_quietly,
    name_survivors,
    open_files,
    open_stdin,
    reason_of,
    signals_of,
    spawn_message,
    terminal_event,
    utc,
)
from eventbus_tasks._chronicle import Chronicle
from eventbus_tasks._delivery import Delivery, await_receivers
from eventbus_tasks._dialogue import Dialogue, check_answer
from eventbus_tasks._following import OutputFollower
from eventbus_tasks._native import absorb, endure, error_text, undisturbed
from eventbus_tasks._preparing import Preparation
from eventbus_tasks._process import wire
from eventbus_tasks._process.marker import sweep_marked
from eventbus_tasks._process.rescue import prepare_rescue
from eventbus_tasks._pump import Turn
from eventbus_tasks._services import Services
from eventbus_tasks._sessions import SessionKeeper
from eventbus_tasks._threads import NoWorkerError
from eventbus_tasks.builtin import unnamed_log
from eventbus_tasks.conversation import AgentAnswer, ConversationInterpreter
from eventbus_tasks.errors import SessionBusyError
from eventbus_tasks.lifecycle import TRANSITIONS, Facts, Input, judge
from eventbus_tasks.outcome import Outcome, Reason, Survivor
from eventbus_tasks.policies import (
    DurableJournal,
    LogFiles,
    Stream,
    TerminationPolicy,
)
from eventbus_tasks.request import Command

if TYPE_CHECKING:
    from eventbus_tasks._process.handle import GuardianLink, WardenClient
    from eventbus_tasks._process.visit import Place
    from eventbus_tasks._turns import Admittance
    from eventbus_tasks.output import StreamCursor
    from eventbus_tasks.signals import Subscription
    from eventbus_tasks.task import Task

__all__ = ["TaskRun"]

logger: Final[logging.Logger] = logging.getLogger("eventbus_tasks")


class TaskRun:
    """The life of one task.

    Args:
        services: What the runs of the engine share.
        task: The accepted task.
        admittance: Its wait for the project, whose lock is handed over to the guardian, and for a
            place among those that run.
    """

    def __init__(self, services: Services, task: Task, admittance: Admittance) -> None:
        self.task = task
        self._services = services
        self._admittance = admittance
        self._queued: set[str] = set()  # what it had to wait for, and was told to wait for
        self.chronicle = Chronicle(task, services.bus, self._failed_to_persist)
        self._persist_error: str | None = None
        self._hook_errors: list[str] = []
        self._policy = TerminationPolicy()
        self._output = OutputFollower(
            task, services.bus, self._emit, self._line_emitter(), self._hook_failed
        )
        self.sessions = self._output.sessions = SessionKeeper(task, services)
        self._link: GuardianLink | None = None
        self._place: Place | None = None  # where the guardian will be found
        self._argv: tuple[str, ...] = ()
        self._executed = False
        self._followed = False  # all output was handed out
        self._heard = False  # the guardian has said something
        self._warden_lost = False
        self._orphaned = False  # nobody was left to end the family
        self._leader: tuple[int, int] | None = None  # its number and start time
        self._over = False  # the guardian has said everything
        self._complete = False  # the guardian is gone: the log has its final size
        self._facts = Facts()
        self._survivors: tuple[Survivor, ...] = ()
        self._sizes: dict[str, int] = {}
        self._lost: dict[str, int] = {}

    def request_stop(self, reason: Reason, *, now: bool) -> bool:
        """Begin to end the task; return whether that can still change anything."""
        life = self.task._life
        if life.status.is_terminal:
            return False
        if self._link is None:
            self.task._step(Input.STOP, reason)
            self._admittance.interrupt()
        else:
            # Also when the program has exited: what it left behind can be ended sooner.
            self._link.stop(reason.value, now=now)
        return not life.leader_exited

    def abandon(self) -> None:
        """End a run whose event loop has gone; see `TaskEngine.abandon`."""
        if self.task._outcome is None:
            self._release()
            self.sessions.abandon()
            self.task._outcome = Outcome(
                reason=Reason.ENGINE_CLOSED, message="its event loop ended under it"
            )
            self.task._step(Input.ENDED, Reason.ENGINE_CLOSED)
            self.task.completed_at = datetime.now(UTC)
            self.task.output.end()
        self.task._abandoned = True

    async def run(self) -> None:
        """Live the whole life. Nothing that happens outside can end it early."""
        with anyio.CancelScope(shield=True):
            try:
                await self._live_on()
            except Exception as error:
                self._facts = replace(self._facts, plugin_error=self._internal_error(error))
                await self._abandon()
            finally:
                self._release()
            await self._finish()

    async def _live_on(self) -> None:
        """Go on after a native cancellation: whether the task has to end, its engine decides."""
        while True:
            try:
                await self._live()
            except anyio.get_cancelled_exc_class():
                absorb()
            else:
                return

    async def _live(self) -> None:
        if self._link is None:
            await self._prepare()
        if self._link is not None:
            await self._follow_through()
        if self._orphaned:
            await self._sweep()

    async def _sweep(self) -> None:
        """Do what guardian and warden cannot do any more, as far as the mark leads."""
        survivors = await self._services.plugins.run(
            functools.partial(
                sweep_marked, self.task.uid, self._policy.kill_wait, leader=self._leader
            ),
            deadline=2 * self._policy.kill_wait + 5.0,
            endures=True,
        )
        self._survivors = name_survivors(survivors)

    # -- before the start ---------------------------------------------------------------------

    async def _prepare(self) -> None:
        if not self.chronicle.seq:
            journal = await self._ask("ebt_open_journal", check=check_journal, undo=close_quietly)
            self.chronicle.write_to(journal)
            self._emit(events.TaskAccepted(request=self.task.request))
        if not await self._take_turn() or self._stopped():
            return
        try:
            await self._start()
        except OSError as error:
            self._facts = Facts(spawn_error=f"the system refuses what a start needs: {error}")

    async def _start(self) -> None:
        """Have the task started, unless something is missing, or it is stopped meanwhile.

        Raises:
            OSError: There are no descriptors, threads or processes left.
        """
        command = await self._ask("ebt_build_command", check=check_command)
        if self._stopped():
            return
        if command is None:
            errors = "; ".join(self._hook_errors)
            problem = errors or f"no plugin built a command for the agent {self.task.agent!r}"
            self._facts = Facts(plugin_error=problem)
            return
        self.task._session_id = command.session_id
        try:
            await self.sessions.claim(self.task.session_id)
        except SessionBusyError as error:
            self._facts = Facts(spawn_error=str(error))
            return
        self._policy = await self._choose_policy()
        if self._stopped():
            return
        preparation = Preparation(self.task, command, self._policy)
        files = await self._open_log(command, preparation)
        if files is None:
            return
        warden = None
        try:
            warden = await self._services.warden()
        finally:
            if warden is None or self._stopped():
                close_notes(files)
        if not self._stopped():
            findable = self._place is not None
            self._launch(warden, command, files, preparation)
            if findable and self._link is not None:
                await self.sessions.guard()

    async def _take_turn(self) -> bool:
        """Wait until the project and a place are ours; return ``False`` if that will not come."""
        while not self._stopped() and (why := self._admittance.waits_for()) is not None:
            if why not in self._queued:
                ahead, holder = await self._admittance.describe()
                self._queued.add(why)
                self._emit(events.TaskQueued(why=why, ahead=ahead, holder=holder))
                continue  # it may have been stopped meanwhile
            try:
                await self._admittance.next_change()
            except OSError as error:
                self._facts = Facts(spawn_error=f"the project cannot be locked: {error}")
                return False
        return True

    def _stopped(self) -> bool:
        """Whether the task was cancelled before there was anything to stop."""
        reason = self.task._life.stop_reason
        if reason is not None:
            self._facts = Facts(stop_reason=reason)
        return reason is not None

    async def _consult(self, request: events.AgentInputRequired) -> AgentAnswer | None:
        """Ask the policies what to answer an agent."""
        check = functools.partial(check_answer, request=request)
        answer = await self._ask("ebt_answer_agent", check=check, request=request)
        return cast("AgentAnswer | None", answer)

    def _let_go(self, problem: str | None = None) -> None:
        """End an agent without a reaction, judged by its interpreter unless that is the problem."""
        if problem is not None:
            self._facts = replace(self._facts, plugin_error=problem)
        if self._link is not None:
            reason = Reason.EXITED if problem is None else Reason.PLUGIN_ERROR
            self._link.stop(reason.value, steps=signals_of(self._policy))

    async def _choose_policy(self) -> TerminationPolicy:
        request = self.task.request
        policy: TerminationPolicy = (
            request.policy
            or await self._ask("ebt_termination_policy", check=check_policy)
            or TerminationPolicy()
        )
        wanted = {"timeout": request.timeout, "on_host_death": request.on_host_death}
        return policy.with_changes(**{k: v for k, v in wanted.items() if v is not None})

    async def _open_log(self, command: Command, preparation: Preparation) -> LogFiles | None:
        separate, state = command.stderr == "separate", self._services.settings.state_dir
        store = await self._ask("ebt_output_log", check=check_store)
        for candidate in (store, unnamed_log.ebt_output_log(self.task)):
            if candidate is None:
                continue
            try:
                opening = functools.partial(open_files, candidate, separate, state, self.task.uid)
                files, self._place = await self._services.open(
                    opening, undo=close_opened, meanwhile=preparation.make
                )
            except Exception as error:
                self._failed_to_persist(f"output log: {error_text(error)}")
                continue
            self.task.output.attach(files)
            self._output.attach()
            return files
        self._facts = Facts(spawn_error=f"no place for the output: {self._persist_error}")
        return None

    def _launch(
        self, warden: WardenClient, command: Command, files: LogFiles, preparation: Preparation
    ) -> None:
        self._argv = tuple(command.argv)
        self._output.interpreter = command.interpreter
        if command.stdin == "open" and isinstance(command.interpreter, ConversationInterpreter):
            self._output.dialogue = self.task._dialogue = Dialogue(
                command.interpreter,
                self.task._input,
                emit=self._emit,
                failed=self._output.interpreter_failed,
                consult=self._consult,
                patience=self._services.settings.answer_deadline,
                let_go=self._let_go,
            )
        stdin = -1
        try:
            stdin = open_stdin(command.stdin, self.task._input)
            self._link = warden.launch(
                preparation.complete(self._place),
                preparation.image,
                stdin=stdin,
                stdout_log=files.stdout,
                stderr_log=files.stderr,
                lock=None if self._admittance.lock is None else self._admittance.lock.fd,
                end_record=files.end_record,
                arrivals=files.arrivals,
                rendezvous=None if self._place is None else self._place.listener.fileno(),
            )
        except OSError as error:
            self._facts = Facts(spawn_error=f"the guardian could not be started: {error}")
            return
        finally:
            if stdin >= 0:
                os.close(stdin)
            close_notes(files)
            self._admittance.hand_over()
            self._release_place()
        if command.capture == "pty":
            self.task._input.resize = self._link.resize
        self.task._step(Input.LAUNCH)

    # -- while it runs ------------------------------------------------------------------------

    async def _follow_through(self) -> None:
        # Native cancellation of one of the two ends both; then they begin again.
        while not self._followed:
            async with anyio.create_task_group() as group:
                group.start_soon(undisturbed(self._follow_output))
                if self._output.interpreter is not None:
                    group.start_soon(undisturbed(self.sessions.serve))
                if self._output.dialogue is not None:
                    group.start_soon(undisturbed(self._output.dialogue.serve))
                await self._follow_messages()

    async def _follow_messages(self) -> None:
        link = self._link
        assert link is not None
        while not self._over:
            await link.wait_readable()
            self._take_messages()
        if self._facts.guardian_lost and link.pipes:
            await self._rescue(link)
        self._complete = True
        self._wake_follower()

    async def _rescue(self, link: GuardianLink) -> None:
        """Save what the guardian, when it was killed, had not moved to the log yet."""
        # Without a warden of ours, nobody says when the family is gone.
        patience = self._policy.kill_wait if self._warden_lost else 0.0
        work = prepare_rescue(link.pipes, self._output.logs(), patience)
        for lost in await self._persist("output", work, patience=patience) or ():
            self._take(lost)

    def _wake_follower(self) -> None:
        if self._link is not None:
            self._services.pump.wake(self._link.eventfd)

    def _take_messages(self) -> None:
        link = self._link
        if link is None:
            return
        for message in link.poll():
            try:
                self._take(message)
            except Exception:
                logger.exception("cannot handle %r of %r", message, self.task)

    def _take(self, message: wire.Message) -> None:
        task = self.task
        if not self._heard:
            self._heard = not isinstance(message, (wire.WardenLost, wire.GuardianLost))
        match message:
            case wire.Started():
                task.pid = message.pid
                self._leader = (message.pid, message.start_time)
                task.started_at = utc(message.at)
                task._step(Input.EXECUTED)
                self._executed = True
                if self._output.dialogue is not None:
                    self._output.dialogue.begin()
                self._wake_follower()  # it may have been woken for output before it might tell
                self._emit(events.TaskStarted(pid=message.pid, argv=self._argv), at=task.started_at)
            case wire.Stopping() if message.reason != Reason.EXITED:  # that is only let go
                reason = reason_of(message.reason)
                task._step(Input.STOP, reason)
                self._emit(
                    events.TaskStopping(reason=reason.value, policy=self._policy),
                    at=utc(message.at),
                )
                if self._output.dialogue is not None:
                    self._output.dialogue.stop(self._policy)
            case wire.SignalSent():
                self._emit(
                    events.SignalSent(signal=message.signal, pids=tuple(message.pids)),
                    at=utc(message.at),
                )
            case wire.LeaderExited():
                task._return_code = message.return_code
                task._step(Input.LEADER_EXITED)
            case wire.Ended():
                self._take_end(message)
            case wire.Released():
                self._over = True
            case wire.Dropped():
                stream = cast("Stream", message.stream)
                self._output.add_gap(stream, message.start, message.end)
                self._lost[stream] = self._lost.get(stream, 0) + message.end - message.start
                self._emit(
                    events.OutputDropped(
                        stream=stream, start=message.start, end=message.end, why=message.why
                    )
                )
            case wire.SpawnFailed():
                self._facts = replace(self._facts, spawn_error=spawn_message(message))
            case wire.WardenLost():
                self._warden_lost = True
            case wire.GuardianLost():
                self._take_loss()
            case wire.Unswept():
                # They keep the project for as long as they live; the task's own story ends here.
                self._survivors = name_survivors(message.survivors)
                self._over = True

    def _take_loss(self) -> None:
        """The guardian has gone without a last word."""
        self._orphaned = self._warden_lost
        if self._warden_lost and not self._heard:
            # The warden died with our request in its hands; or a guardian that had not said a word.
            problem = "warden and guardian have died before either told of a start"
            self._facts = replace(self._facts, spawn_error=problem)
        else:
            code = self.task._return_code
            self._facts = replace(self._facts, guardian_lost=True, return_code=code)

    def _take_end(self, message: wire.Ended) -> None:
        stop_reason = None if message.reason is None else reason_of(message.reason)
        self._facts = replace(
            self._facts,
            return_code=message.return_code,
            stop_reason=stop_reason,
            unkillable=message.unkillable,
        )
        self.task._return_code = message.return_code
        self._survivors = name_survivors(message.survivors)
        self._sizes = dict(message.sizes)
        if message.record_error:
            self._failed_to_persist(f"end record: {message.record_error}")
        if message.survivors:
            # They keep the guardian, and the project, for as long as they live; the task's own
            # story ends here.
            self._over = True

    async def _follow_output(self) -> None:
        assert self._link is not None
        pump, run = self._services.pump, self._services.plugins.run
        await self._output.follow(pump, self._link.eventfd, self._turn, run)
        self._output.end()
        self.sessions.end()
        self.task.output.grown(complete=True)
        self._followed = True

    def _turn(self) -> Turn:
        if not self._executed:  # nothing is told before the start is
            return Turn.DONE if self._complete else Turn.IDLE
        assert self._link is not None
        complete = self._complete
        said = self._output.turn(self._link.has_news, self._take_messages)
        # What was complete before the turn, had its final size in it.
        return Turn.DONE if complete and said is Turn.IDLE else said

    # -- the end ------------------------------------------------------------------------------

    async def _abandon(self) -> None:
        """End a task that the engine itself has lost track of."""
        if self._link is None:
            return
        try:
            self._link.stop(Reason.PLUGIN_ERROR.value, now=True)
            while not self._over:
                await endure(self._link.wait_readable)
                self._take_messages()
        except Exception as error:  # its guardian takes the end of the connection for the host's
            self._internal_error(error)

    def _release_place(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.let_go(has_guardian=self._link is not None)

    def _release(self) -> None:
        """Give everything back, whatever fails in it: what follows tells the end."""
        shut = functools.partial(self.task._input.shut, "the task has ended")
        steps: list[Callable[[], object]] = [self._admittance.release, self._release_place, shut]
        if self._output.dialogue is not None:
            steps.insert(2, self._output.dialogue.end)
        for give_back in (*steps, *([] if self._link is None else [self._link.close])):
            try:
                give_back()
            except Exception as error:
                self._internal_error(error)

    async def _finish(self) -> None:
        """Tell the end, once, whatever fails in it: an error would end every other task too."""
        try:
            outcome = self._conclude()
        except Exception as error:
            outcome = Outcome(reason=Reason.PLUGIN_ERROR, message=self._internal_error(error))
        terminal = await self._persist_end(outcome)
        task = self.task
        task.completed_at = terminal.at
        task.output.grown(complete=True)
        task._step(Input.ENDED, terminal.outcome.reason)
        task._outcome = terminal.outcome
        task._settled.set()
        deliveries: list[Delivery] = []
        try:
            await self.sessions.release()
        except Exception as error:
            self._internal_error(error)
        try:
            deliveries = self.chronicle.tell(terminal)
            if self.chronicle.journal is not None:
                close_quietly(self.chronicle.journal)
            task.output.end()
            self._services.retain(task)
            await self._await_receivers(deliveries)
        except Exception as error:
            self._internal_error(error)
        finally:
            task._delivered.set()

    def _internal_error(self, error: Exception) -> str:
        logger.error("internal error in %r", self.task, exc_info=error)
        return f"internal error: {error_text(error)}"

    def _conclude(self) -> Outcome:
        task = self.task
        facts = self._facts
        ended_by_itself = facts.stop_reason in (None, Reason.EXITED) and not facts.guardian_lost
        verdict = None
        if self._executed and ended_by_itself:
            verdict = self._output.verdict(facts.return_code)
            facts = replace(facts, verdict=verdict)
        reason, message = judge(facts)
        outcome = Outcome(
            reason=reason,
            message=message,
            return_code=facts.return_code,
            result=None if verdict is None else verdict.result,
            survivors=self._survivors,
            persist_error=self._persist_error,
            output_bytes=self._sizes or self._output.positions,
            lost_bytes=dict(self._lost),
        )
        if outcome.status not in TRANSITIONS[task._life.status]:
            # The guardian contradicts itself (a success of what it has stopped): not a success.
            outcome = replace(outcome, reason=Reason.GUARDIAN_LOST)
        return outcome

    async def _persist(self, what: str, work: Callable[[], Any], *, patience: float = 0.0) -> Any:
        """Do what may take a while; a failure becomes part of the outcome."""
        deadline = self._services.settings.journal_deadline + patience
        try:
            return await self._services.plugins.run(work, deadline=deadline, endures=True)
        except Exception as error:
            self._failed_to_persist(f"{what}: {error_text(error)}")
            return None

    async def _persist_end(self, outcome: Outcome) -> events.TaskEnded:
        """Make the terminal event, and have it durable before anybody is told."""
        journal = self.chronicle.journal
        if journal is not None:
            await self._persist("journal", lambda: journal.finish(outcome))
        terminal = terminal_event(replace(outcome, persist_error=self._persist_error))
        try:
            self.chronicle.record(terminal)
            if isinstance(journal, DurableJournal):
                await self._persist("journal", journal.sync)
        except Exception as error:  # of looking at it: what its methods raise is dealt with
            self._failed_to_persist(f"journal: {error_text(error)}")
        if terminal.outcome.persist_error != self._persist_error:
            outcome = replace(outcome, persist_error=self._persist_error)
            terminal = replace(terminal, outcome=outcome)
        return terminal

    async def _await_receivers(self, deliveries: Iterable[Delivery]) -> None:
        deadline = self._services.settings.receiver_deadline
        await await_receivers(deliveries, deadline, failed=self._hook_failed)

    # -- events and failures ------------------------------------------------------------------

    def _emit(self, event: events.TaskEvent, *, at: datetime | None = None) -> list[Delivery]:
        return self.chronicle.emit(event, at=at)

    def _line_emitter(self) -> Callable[[Subscription, StreamCursor, bytes], bool]:
        """Return what does the same with whole lines, or says that it cannot."""
        return self.chronicle.emit_lines

    async def _ask(
        self,
        hook: str,
        *,
        check: Callable[[Any], None] | None = None,
        undo: Callable[[Any], None] | None = None,
        **arguments: Any,
    ) -> Any:
        self._hook_errors.clear()
        arguments["task"] = self.task
        try:
            return await self._services.plugins.ask(
                hook, arguments, failed=self._hook_failed, check=check, undo=undo
            )
        except NoWorkerError as error:
            if self.chronicle.seq and self._link is None:
                raise
            self._hook_failed(f"hook {hook}", str(error), False)  # it goes on without

    def _hook_failed(self, where: str, error: str, overran: bool) -> None:
        self._hook_errors.append(f"{where}: {error}")
        self._services.bus.report(
            where, error, self.task.ref, seq=self.chronicle.seq, overran=overran
        )

    def _failed_to_persist(self, problem: str) -> None:
        logger.error("%r: %s", self.task, problem)
        if self._persist_error is None:
            self._persist_error = problem
