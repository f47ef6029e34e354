"""The life of a task as a pure function, and the judgement over its end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import REASON_STATUS, Reason, TaskStatus, Verdict
from eventbus_tasks.lifecycle import TRANSITIONS, Facts, Input, LifeState, judge, step

ORDER = [
    TaskStatus.PENDING,
    TaskStatus.STARTING,
    TaskStatus.RUNNING,
    TaskStatus.STOPPING,
]

inputs = st.tuples(st.sampled_from(Input), st.none() | st.sampled_from(Reason))
# What a run can really say at its end, given where it is.
happenings = st.lists(inputs, max_size=12)


def follow(happened: list[tuple[Input, Reason | None]]) -> list[LifeState]:
    """Return every state on the way."""
    states = [LifeState()]
    for item, reason in happened:
        states.append(step(states[-1], item, reason))
    return states


@given(happenings)
def test_step_stays_in_the_table(happened: list[tuple[Input, Reason | None]]) -> None:
    """Whatever happens, a status follows another only as the table says."""
    states = follow(happened)
    for before, after in itertools.pairwise(states):
        assert after.status is before.status or after.status in TRANSITIONS[before.status]


@given(happenings)
def test_status_never_goes_back(happened: list[tuple[Input, Reason | None]]) -> None:
    """A life goes forward only (I1), and an end absorbs everything (I4)."""
    states = follow(happened)
    for before, after in itertools.pairwise(states):
        if before.status.is_terminal:
            assert after == before
        elif not after.status.is_terminal:
            assert ORDER.index(after.status) >= ORDER.index(before.status)
        assert (after.reason is not None) == after.status.is_terminal
        if after.reason is not None:
            assert after.status is REASON_STATUS[after.reason]


@given(happenings)
def test_first_cause_stays(happened: list[tuple[Input, Reason | None]]) -> None:
    """The first cause of a stop stays the cause; a stop after the exit is none."""
    cause: Reason | None = None
    exited = False
    state = LifeState()
    for item, reason in happened:
        if not state.status.is_terminal:
            if item is Input.STOP and not exited and cause is None:
                cause = reason
            exited = exited or item is Input.LEADER_EXITED
        state = step(state, item, reason)
        assert state.stop_reason is cause


def test_ordinary_life() -> None:
    """The straight road is PENDING, STARTING, RUNNING, COMPLETED."""
    states = follow(
        [
            (Input.LAUNCH, None),
            (Input.EXECUTED, None),
            (Input.LEADER_EXITED, None),
            (Input.ENDED, Reason.EXITED),
        ]
    )
    assert [state.status for state in states] == [
        TaskStatus.PENDING,
        TaskStatus.STARTING,
        TaskStatus.RUNNING,
        TaskStatus.RUNNING,
        TaskStatus.COMPLETED,
    ]


def test_stop_while_starting() -> None:
    """A stop that comes before the program runs makes it STOPPING as soon as it does."""
    states = follow([(Input.LAUNCH, None), (Input.STOP, Reason.CANCELLED), (Input.EXECUTED, None)])
    assert [state.status for state in states[1:]] == [
        TaskStatus.STARTING,
        TaskStatus.STARTING,
        TaskStatus.STOPPING,
    ]


def test_table_is_complete() -> None:
    """Every status is in the table, and only ends lead nowhere."""
    assert set(TRANSITIONS) == set(TaskStatus)
    for status, following in TRANSITIONS.items():
        assert status.is_terminal == (not following)


def test_reasons_and_status() -> None:
    """Every reason has its status, as the design says."""
    completed = {Reason.EXITED}
    cancelled = {Reason.CANCELLED, Reason.ENGINE_CLOSED}
    assert set(REASON_STATUS) == set(Reason)
    for reason in Reason:
        if reason in completed:
            assert reason.status is TaskStatus.COMPLETED
        elif reason in cancelled:
            assert reason.status is TaskStatus.CANCELLED
        else:
            assert reason.status is TaskStatus.FAILED
    assert {reason.value for reason in Reason} == {
        "exited",
        "cancelled",
        "engine_closed",
        "exit_code",
        "signalled",
        "spawn_failed",
        "timed_out",
        "idle",
        "output_limit",
        "agent_error",
        "no_result",
        "plugin_error",
        "unkillable",
        "guardian_lost",
        "host_lost",
    }


STOP_REASONS = (
    Reason.CANCELLED,
    Reason.ENGINE_CLOSED,
    Reason.TIMED_OUT,
    Reason.IDLE,
    Reason.OUTPUT_LIMIT,
    Reason.HOST_LOST,
)

GOOD = Verdict(reason=Reason.EXITED, message="fine")
BAD = Verdict(reason=Reason.AGENT_ERROR, message="refused")


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (Facts(return_code=0), Reason.EXITED),
        (Facts(return_code=0, verdict=GOOD), Reason.EXITED),
        (Facts(return_code=1), Reason.EXIT_CODE),
        (Facts(return_code=-15), Reason.SIGNALLED),
        (Facts(), Reason.GUARDIAN_LOST),
        # An agent's word counts against a success, never for one.
        (Facts(return_code=0, verdict=BAD), Reason.AGENT_ERROR),
        (Facts(return_code=1, verdict=BAD), Reason.AGENT_ERROR),
        (Facts(return_code=1, verdict=GOOD), Reason.EXIT_CODE),
        (Facts(return_code=-9, verdict=GOOD), Reason.SIGNALLED),
        (Facts(verdict=GOOD), Reason.GUARDIAN_LOST),
        # What we did ourselves is the reason, whatever came of it.
        (Facts(return_code=0, stop_reason=Reason.CANCELLED), Reason.CANCELLED),
        (Facts(return_code=-15, stop_reason=Reason.TIMED_OUT, verdict=BAD), Reason.TIMED_OUT),
        (Facts(stop_reason=Reason.ENGINE_CLOSED), Reason.ENGINE_CLOSED),
        # Only let go, because it did not end: what its interpreter says decides.
        (Facts(return_code=-15, stop_reason=Reason.EXITED, verdict=GOOD), Reason.EXITED),
        (Facts(return_code=-15, stop_reason=Reason.EXITED, verdict=BAD), BAD.reason),
        (Facts(return_code=-15, stop_reason=Reason.EXITED), Reason.SIGNALLED),
        # What could not be done.
        (Facts(spawn_error="no such file"), Reason.SPAWN_FAILED),
        (Facts(plugin_error="no command"), Reason.PLUGIN_ERROR),
        (Facts(guardian_lost=True, stop_reason=Reason.CANCELLED), Reason.GUARDIAN_LOST),
        (Facts(unkillable=True, stop_reason=Reason.CANCELLED), Reason.UNKILLABLE),
    ],
)
def test_judge(facts: Facts, reason: Reason) -> None:
    """Our own stop comes first, then the agent's word, then the exit code."""
    assert judge(facts)[0] is reason


@given(
    st.builds(
        Facts,
        return_code=st.none() | st.integers(-64, 255),
        stop_reason=st.none() | st.sampled_from(STOP_REASONS),
        spawn_error=st.none() | st.text(),
        plugin_error=st.none() | st.text(),
        unkillable=st.booleans(),
        guardian_lost=st.booleans(),
        verdict=st.none()
        | st.builds(Verdict, reason=st.sampled_from(Reason), message=st.text(max_size=5)),
    )
)
def test_success_is_honest(facts: Facts) -> None:
    """COMPLETED means status 0, not stopped, not contradicted (I10); every failure has a text."""
    reason, message = judge(facts)
    if reason.status is TaskStatus.COMPLETED:
        assert facts.return_code == 0
        assert facts.stop_reason is None
        assert not facts.unkillable
        assert not facts.guardian_lost
        assert facts.spawn_error is None
        assert facts.plugin_error is None
        assert facts.verdict is None or facts.verdict.reason is Reason.EXITED
    if facts.verdict is None and facts.spawn_error is None and facts.plugin_error is None:
        assert bool(message) == (reason is not Reason.EXITED)


@pytest.mark.parametrize(
    "claimed",
    [
        Reason.CANCELLED,
        Reason.ENGINE_CLOSED,
        Reason.SPAWN_FAILED,
        Reason.UNKILLABLE,
        Reason.GUARDIAN_LOST,
        Reason.HOST_LOST,
    ],
)
def test_verdict_claims_only_what_it_can_know(claimed: Reason) -> None:
    """An agent's interpreter cannot make a task cancelled or lost: only the engine knows that."""
    reason, _ = judge(Facts(return_code=0, verdict=Verdict(reason=claimed)))
    assert reason is not claimed
    assert reason.status is TaskStatus.FAILED
