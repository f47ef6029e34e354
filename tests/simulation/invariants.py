"""The invariants I1 to I14 of the design, over one life that was lived.

I1, I2 and I4 are checked at every step by `SimulatedTask`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from eventbus_tasks._process.wire import Started
from eventbus_tasks.events import TaskEnded
from eventbus_tasks.outcome import Outcome, Reason, TaskStatus

if TYPE_CHECKING:
    from .world import Life

TOLERANCE = 0.1
HANGS_FOR_EVER = 1e9
_OWN = frozenset((Reason.EXITED, Reason.EXIT_CODE, Reason.SIGNALLED))
"""Reasons of a program that has ended by itself."""


class Wrong(AssertionError):
    """An invariant does not hold; the text begins with its name."""


def check(life: Life) -> None:
    """Check everything.

    Raises:
        Wrong: The first invariant that does not hold.
    """
    kernel = life.kernel
    if kernel.bad_signals:
        raise Wrong(f"I12 signals to strangers: {kernel.bad_signals}")
    _check_graces(life)
    _check_stand_in(life)
    _check_lock(life)
    _check_bounds(life)
    _check_events(life)
    if life.outcome is not None:
        _check_outcome(life, life.outcome)


def _first_stop(life: Life) -> tuple[float, Reason] | None:
    """Return when and why the guardian had to begin to end the task, from outside or by limit."""
    plan, kernel = life.plan, life.kernel
    found = [(when, reason) for when, reason, _, _ in life.accepted]
    if life.host_died_at is not None and plan.policy.on_host_death == "kill":
        found.append((life.host_died_at, Reason.HOST_LOST))
    if plan.policy.timeout is not None and kernel.leader is not None:
        # Counted from the fork; what it took until then is jitter.
        found.append((plan.policy.timeout, Reason.TIMED_OUT))
    return min(found, default=None)


def _check_graces(life: Life) -> None:
    """I11, the other side: nobody is killed before the graces have passed, nor if it obeys."""
    plan = life.plan
    rungs = plan.policy.rungs
    if not rungs or life.guardian_killed_at is not None or life.kernel.warden_dead:
        return
    if any(now for _, _, now, _ in life.accepted) or any(rung.scope != "tree" for rung in rungs):
        return
    starts = [when for when, _, _, _ in life.accepted]
    limits = (plan.policy.timeout, plan.policy.idle_timeout, plan.policy.max_output)
    if life.kernel.leader_died is not None:
        starts.append(life.kernel.leader_died + plan.policy.exit_grace)
    if life.host_died_at is not None:
        starts.append(life.host_died_at)
    first = rungs[0].grace
    for when, proc in life.kernel.kills:
        there = not any(limits) and starts and proc.born <= min(starts)
        if there and when < min(starts) + plan.graces - 1e-6:
            raise Wrong(f"I11 {proc.pid} killed at {when}, graces began at {min(starts)}")
        obeys = not proc.traits.ignores and proc.traits.delay + TOLERANCE < first
        if obeys and proc.executed and not proc.traits.stuck and not proc.traits.hops:
            begun = min(starts) if starts else 0.0
            if proc.born < begun and when > begun + first and not any(limits):
                raise Wrong(f"I11 {proc.pid} would have obeyed, and was killed at {when}")


def _check_stand_in(life: Life) -> None:
    """I11 while the guardian hangs: the family ends in time, and nobody is asked twice."""
    kernel, plan, policy = life.kernel, life.plan, life.plan.policy
    if kernel.most_heard > len(policy.rungs):
        raise Wrong(f"I11 a ladder of {len(policy.rungs)}, and {kernel.most_heard} were climbed")
    if not plan.stalled[1] < HANGS_FOR_EVER or kernel.warden_dead or plan.resists:
        return
    odd = plan.signalled or plan.hangs_up is not None or policy.after_exit == "leave"
    stop = _first_stop(life)
    if odd or stop is None or life.guardian_killed_at is not None:
        return
    begun, reason = max(0.0, stop[0]), stop[1]
    if reason is Reason.TIMED_OUT and (kernel.leader_died or begun) < begun:
        return
    limit = begun + plan.graces + policy.exit_grace + 0.5 + plan.hopping + plan.exec_delay
    if kernel.last_death > limit:
        raise Wrong(f"I11 the last one died at {kernel.last_death:.3f}, not by {limit:.3f}")


def _check_lock(life: Life) -> None:
    """I3: when the project is free, nobody of the family lives."""
    if life.freed is None:
        return
    _, living = life.freed
    if living and not life.kernel.warden_dead:
        raise Wrong(f"I3 the project was free while {living} processes lived")


def _check_bounds(life: Life) -> None:
    """I9, I11, I13: the family ends, and in time."""
    kernel, plan, policy = life.kernel, life.plan, life.plan.policy
    both_dead = kernel.warden_dead and life.guardian_killed_at is not None
    if both_dead or plan.resists or policy.after_exit == "leave":
        return
    detached = life.host_died_at is not None and policy.on_host_death == "detach"
    if ours := kernel.unreaped():
        if living := [proc.pid for proc in ours if proc.alive]:
            if detached and not life.accepted:
                return  # it goes on, as it shall
            raise Wrong(f"I9 {len(living)} left: {living}")
        if not life.never:
            raise Wrong(f"I9 zombies left: {[proc.pid for proc in ours]}")
    if life.never:
        raise Wrong("I11 nobody is left, and the end does not come")
    if life.freed is None:
        raise Wrong("I9 the project is not free")
    stop = _first_stop(life)
    begun = [] if stop is None else [stop[0]]
    if kernel.leader_died is not None:
        begun.append(kernel.leader_died + policy.exit_grace)
    if life.guardian_killed_at is not None or not begun:
        return
    slow = 0.5 + plan.hopping + plan.exec_delay
    limit = max(0.0, min(begun)) + policy.exit_grace + plan.graces + policy.kill_wait
    limit += 2 * policy.drain + slow
    if plan.stalled[0] < limit:
        limit += plan.stalled[1]
    when = life.freed[0]
    if when > limit:
        raise Wrong(f"I11 over at {when:.3f}, not by {limit:.3f}")
    if life.host_died_at is not None and not detached:
        gone = max((when for when, _ in kernel.kills), default=0.0)
        if gone > limit:
            raise Wrong("I13 the family outlived its host")


def _check_events(life: Life) -> None:
    """I5, I7, I8: one end, last; numbers without a gap; books that agree."""
    events = life.run_.events
    ends = 0
    for number, event in enumerate(events, 1):
        if event.seq != number:
            raise Wrong("I7 the numbers have a gap")
        if not isinstance(event.at, datetime):
            raise Wrong("I7 an event without a time")
        ends += isinstance(event, TaskEnded)
    if (life.outcome is not None) != (ends == 1):
        raise Wrong(f"I5 {ends} ends")
    if ends and not isinstance(events[-1], TaskEnded):
        raise Wrong("I5 something was told after the end")
    names = [event.name for event in events]
    if names.count("task.started") > 1 or names.count("task.stopping") > 1:
        raise Wrong(f"I5 told twice: {names}")
    if life.task._life.status.is_terminal != (life.outcome is not None):
        raise Wrong("I8 status and outcome disagree")
    alive = not life.kernel.host_dead and not life.machine.hung_up
    # Every life is ended by somebody long before the horizon.
    if alive and life.outcome is None:
        raise Wrong("I5 it should be over, and there is no end")


def _check_outcome(life: Life, outcome: Outcome) -> None:
    """I6 and I10: nothing is lost, and the reason is true."""
    kernel, plan = life.kernel, life.plan
    leader = kernel.leader
    reason = outcome.reason
    end = life.run_.events[-1]
    assert isinstance(end, TaskEnded)
    if end.outcome is not outcome or outcome.status is not reason.status:
        raise Wrong("I8 the event tells another outcome")
    if plan.journal_fails and not outcome.persist_error:
        raise Wrong("I14 the journal failed, and nobody says so")
    if life.refused:
        if reason is not Reason.SPAWN_FAILED or leader is not None:
            raise Wrong(f"I10 its launch was refused, and {reason}")
        return
    if life.guardian_killed_at is not None and life.machine.end_record is None:
        # With the warden gone as well, nobody knows that a guardian without a word had begun.
        silent = kernel.warden_dead and Started not in life.told_at
        if reason is not Reason.GUARDIAN_LOST and not (silent and reason is Reason.SPAWN_FAILED):
            raise Wrong(f"I10 the guardian was killed, and the reason is {reason}")
        named = {survivor.pid for survivor in outcome.survivors}
        if not kernel.warden_dead and not named >= set(life.left_at_end or ()):
            raise Wrong(f"I9 {life.left_at_end} lived at its end, {named} are named")
        if named and not plan.resists:
            raise Wrong(f"I9 survivors that nobody could be: {named}")
        _check_rescue(life, outcome)
        return
    if reason is Reason.GUARDIAN_LOST:
        raise Wrong("I10 nobody has killed the guardian")
    if plan.fork_fails or plan.exec_fails:
        if outcome.status is TaskStatus.COMPLETED:
            raise Wrong(f"I10 it could not start, and {reason}")
        limits = (plan.policy.timeout, plan.policy.idle_timeout)
        if reason is not Reason.SPAWN_FAILED and not life.accepted and not any(limits):
            raise Wrong(f"I10 it could not start, and {reason}")
        return
    assert leader is not None or life.accepted
    _check_output(life, outcome)
    if reason is Reason.UNKILLABLE:
        if not plan.resists:
            raise Wrong("I10 nobody has resisted")
        return
    if outcome.survivors and plan.policy.after_exit != "leave":
        raise Wrong(f"I9 survivors: {outcome.survivors}")
    if (
        leader is not None
        and outcome.return_code != leader.code
        and reason is not (Reason.SPAWN_FAILED)
    ):
        raise Wrong(f"I10 return code {outcome.return_code}, the kernel says {leader.code}")
    _check_reason(life, outcome)


def _check_rescue(life: Life, outcome: Outcome) -> None:
    """I6 when the guardian was killed: the warden kept the pipe, and the host has emptied it."""
    kernel = life.kernel
    if kernel.warden_dead or outcome.survivors:
        return
    if kernel.logged + kernel.dropped != kernel.written:
        lost = kernel.written - kernel.logged - kernel.dropped
        raise Wrong(f"I6 {lost} bytes were lost with the guardian")


def _check_output(life: Life, outcome: Outcome) -> None:
    kernel = life.kernel
    size = outcome.output_bytes.get("stdout", 0)
    lost = outcome.lost_bytes.get("stdout", 0)
    if size - lost > kernel.logged or (lost != kernel.dropped and not outcome.survivors):
        raise Wrong(f"I6 told {size} bytes, {lost} lost; kept {kernel.logged}")
    if not outcome.survivors and size != kernel.written:
        raise Wrong(f"I6 {kernel.written} bytes were written, {size} have arrived")


def _check_reason(life: Life, outcome: Outcome) -> None:
    kernel, policy, reason = life.kernel, life.plan.policy, outcome.reason
    died = kernel.leader_died
    if life.plan.signalled:
        return  # told by a signal, whose moment only the guardian knows
    stops = [(when, why) for when, why, _, _ in life.accepted]
    if reason in _OWN:
        code = outcome.return_code
        expected = (
            Reason.EXITED
            if code == 0
            else Reason.EXIT_CODE
            if (code or 0) > 0
            else Reason.SIGNALLED
        )
        if reason is not expected:
            raise Wrong(f"I10 {reason} with return code {code}")
        # The guardian may learn of both in one turn; what came clearly first counts.
        late = 0.02 if died is not None and life.plan.stalled[0] > died else 0.2
        unheard = kernel.warden_dead and life.plan.stalled[0] < (died or 0.0)
        if died is not None and stops and stops[0][0] < died - late and not unheard:
            raise Wrong(f"I10 stopped at {stops[0][0]}, dead at {died}, and {reason}")
        if policy.timeout is not None and died is not None and died > policy.timeout + 0.6:
            raise Wrong(f"I10 died at {died}, its timeout was {policy.timeout}")
        return
    if died is not None and stops and died < stops[0][0] - 0.02 and reason is stops[0][1]:
        raise Wrong(f"I10 it had ended by itself at {died}, and {reason}")
    if reason in (Reason.CANCELLED, Reason.ENGINE_CLOSED):
        if not stops or stops[0][1] is not reason:
            raise Wrong(f"I10 {reason}, asked for: {stops}")
    elif reason is Reason.TIMED_OUT:
        if policy.timeout is None or (stops and stops[0][0] < policy.timeout - 0.02):
            raise Wrong(f"I10 timed out, asked for: {stops}")
    elif reason is Reason.IDLE:
        if policy.idle_timeout is None:
            raise Wrong("I10 idle without a limit")
    elif reason is Reason.OUTPUT_LIMIT:
        if policy.max_output is None or kernel.written <= policy.max_output:
            raise Wrong("I10 output limit without too much output")
    elif reason is not Reason.SPAWN_FAILED:
        raise Wrong(f"I10 nothing could have led to {reason}")
