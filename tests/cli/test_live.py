"""The live line of an agent at a terminal, and questions that a person answers there."""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus_tasks import AgentAnswer, AgentInputRequired, Deny
from eventbus_tasks._cli import asking
from eventbus_tasks._cli.status import cut
from eventbus_tasks._cli.terminal import ERASE

AGENT = """
import json, os, sys
from eventbus_tasks import (
    AgentInputRequired, AgentMessage, AgentResult, AgentToolFinished, AgentToolStarted, AgentUsage,
    Allow, Answer, Command, Reason, Verdict, hookimpl,
)

KINDS = {"say": AgentMessage, "tool": AgentToolStarted, "done": AgentToolFinished,
         "ask": AgentInputRequired, "usage": AgentUsage, "result": AgentResult}

class Interpreter:
    def __init__(self, prompt):
        self.prompt = prompt

    def begin(self):
        return (self.prompt + "\\n").encode()

    def encode_prompt(self, text):
        return (text + "\\n").encode()

    def encode_answer(self, request, answer):
        if isinstance(answer, Answer):
            return (answer.text + "\\n").encode()
        return b"allow\\n" if isinstance(answer, Allow) else b"deny\\n"

    def encode_interrupt(self):
        return b"stop\\n"

    def interpret(self, line, stream):
        data = json.loads(line)
        yield KINDS[data.pop("type")](**data)

    def verdict(self, exit):
        return Verdict(reason=Reason.EXITED)

@hookimpl
def ebt_register_agents(register):
    register("talker", "asks what it wants to know")

@hookimpl
def ebt_build_command(task):
    if task.agent == "talker":
        # Its prompt is a script, and what it reads behind that are answers.
        return Command(argv=("sh", "-c", 'IFS= read -r prompt; eval "$prompt"'), stdin="open",
                       interpreter=Interpreter(task.prompt), env={**os.environ})
"""

# Both for `sh`.
ASK = (
    """echo '{"type": "ask", "kind": "%s", "prompt": "%s", "request_id": "r1", """
    """"tool": "Write"}'; """
)
ANSWER = (
    """read answer; """
    """printf '{"type": "result", "ok": true, "text": "I was told: %%s"}\\n' "$answer\""""
)
TERMINAL = {"TERM": "xterm", "NO_COLOR": ""}


def start(ebt: Any, make_plugin: Any, script: str, **environ: str) -> Any:
    """Run the agent at a terminal."""
    given_ = {**make_plugin("talker", AGENT), **TERMINAL, **environ}
    return ebt("run", "-n", "n", "-a", "talker", script, terminal=True, environ=given_)


def test_line_says_what_it_is_at(ebt: Any, make_plugin: Any, gate: Any) -> None:
    """While a tool runs, the last line names it, with time, tokens and price; then it is gone."""
    script = (
        """echo '{"type": "usage", "input_tokens": 1500, "cost_usd": 0.25}'; """
        """echo '{"type": "tool", "tool": "Bash", "call_id": "c1", "summary": "npm test"}'; """
        f"""{gate.wait}; echo '{{"type": "result", "ok": true, "text": "Done."}}'"""
    )
    running = start(ebt, make_plugin, script)
    seen = running.read_until("⋯ Bash: npm test · 0:0".encode()).decode()
    seen = running.read_until(b"$0.25").decode()
    line = seen.rpartition(ERASE)[2]
    assert "· 1.5k tokens · $0.25" in line
    assert "\n" not in line
    gate.open()
    code, errors = running.wait()
    assert (code, errors.splitlines()[-1][:14]) == (0, "ebt: n: done (")
    # Every line was taken away before something else was written.
    shown = [part for part in running.seen.decode().split(ERASE) if "⋯" in part]
    assert all("\n" not in part for part in shown)
    assert "⋯" not in running.seen.decode().rpartition(ERASE)[2]


@pytest.mark.parametrize(("typed", "told"), [("y", "allow"), ("no", "deny"), ("what\ny", "allow")])
def test_permission_is_asked_for(ebt: Any, make_plugin: Any, typed: str, told: str) -> None:
    """A person says yes or no; anything else is asked again."""
    running = start(ebt, make_plugin, (ASK + ANSWER) % ("permission", "may it write"))
    for asked, line in enumerate(typed.splitlines(), start=1):
        running.read_until(b"[y/n]", asked)
        os.write(running.out, line.encode() + b"\n")
    code, _ = running.wait()
    assert code == 0
    assert f"I was told: {told}" in running.seen.decode()


def test_question_is_asked(ebt: Any, make_plugin: Any) -> None:
    """A question takes any line that is not empty."""
    running = start(ebt, make_plugin, (ASK + ANSWER) % ("question", "Which one"))
    running.read_until(b"Which one >")
    os.write(running.out, "die größere\n".encode())
    assert running.wait()[0] == 0
    assert "I was told: die größere" in running.seen.decode()


def test_agent_that_stays_is_let_go(ebt: Any, make_plugin: Any) -> None:
    """An agent that would wait for its next prompt ends after its answer."""
    script = """echo '{"type": "result", "ok": true, "text": "Done."}'; exec cat"""
    running = ebt("run", "-a", "talker", script, environ=make_plugin("talker", AGENT))
    assert running.wait()[0] == 0
    assert running.seen == b"Done.\n"


def test_nobody_answers(ebt: Any, make_plugin: Any) -> None:
    """A question that nobody answers disappears with its deadline, and was denied."""
    script = (ASK + ANSWER) % ("permission", "may it write")
    running = start(ebt, make_plugin, script, EBT_ANSWER_DEADLINE="0.2")
    assert running.wait()[0] == 0
    seen = running.seen.decode()
    assert "⊘ denied (nobody has answered in time)" in seen
    assert "I was told: deny" in seen


def test_nobody_can_answer(ebt: Any, make_plugin: Any) -> None:
    """Without a terminal it is said that somebody is needed, and the deadline denies."""
    environ = {**make_plugin("talker", AGENT), "EBT_ANSWER_DEADLINE": "0.2"}
    script = (ASK + ANSWER) % ("permission", "may it write")
    code, errors = (running := ebt("run", "-a", "talker", script, environ=environ)).wait()
    assert (code, running.seen.decode()) == (0, "I was told: deny\n")
    assert "ebt: the agent needs you: may it write" in errors


@given(st.text(), st.integers(min_value=1, max_value=30))
def test_cut_fits(text: str, columns: int) -> None:
    """What is cut is a beginning, and is not longer than the line; what fits stays whole."""
    found = cut(text, columns)
    assert cut(found, columns) == found
    assert found == text or (found.endswith("…") and text.startswith(found[:-1]))
    if text.isascii():
        assert len(found) <= columns
        assert (found == text) == (len(text) <= columns)


class Told:
    """Stands for a task and its status line: keeps the answer."""

    def __init__(self) -> None:
        self.answers: list[AgentAnswer] = []

    async def answer(self, request: AgentInputRequired, answer: AgentAnswer) -> None:
        self.answers.append(answer)

    async def ask(self, question: str) -> None:
        """Show nothing: the terminal has gone."""


def test_a_terminal_that_was_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question at a terminal that has gone is denied, and is no failure of ebt."""
    ours, theirs = os.openpty()
    os.close(ours)
    monkeypatch.setattr(asking, "_TERMINAL", theirs)
    told: Any = Told()
    question = AgentInputRequired(kind="permission", prompt="may it", request_id="r1")
    try:
        anyio.run(asking.Asker(told, told)._put, question)
    finally:
        os.close(theirs)
    assert told.answers == [Deny("Nobody is there to answer.")]
