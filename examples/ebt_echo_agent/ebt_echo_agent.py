"""A plugin for an agent: builds its command, understands its lines, judges its end."""

import os
import sys

from eventbus_tasks import AgentMessage, AgentResult, Command, Reason, Verdict, hookimpl
from eventbus_tasks.agents import (
    JsonLinesInterpreter,
    check_program,
    child_environment,
    prompt_bytes,
    text_in,
    unknown_event,
)

# What stands in for a real agent here: it says its prompt, and then that it is done.
AGENT = """
import json, sys
prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
print(json.dumps({"type": "say", "text": prompt}))
print(json.dumps({"type": "done", "answer": prompt.upper()}))
"""


class EchoInterpreter(JsonLinesInterpreter):
    """Understands what the agent writes; one object for each task."""

    answer = None

    def read(self, data):
        """Return what one line means."""
        match text_in(data, "type"):
            case "say":
                yield AgentMessage(text=text_in(data, "text"))
            case "done":
                self.answer = text_in(data, "answer")
                yield AgentResult(ok=True, text=self.answer)
            case kind:
                yield unknown_event(kind)

    def judge(self, exit):
        """Say whether the run is a success: only if the agent has said so."""
        if self.answer is None:
            return self.no_result(exit)
        return Verdict(reason=Reason.EXITED, result=self.answer)


@hookimpl
def ebt_register_agents(register):
    """Name the agent."""
    register("echo", "says what it is told")


@hookimpl
def ebt_build_command(task):
    """Say what to execute for a task."""
    if task.agent != "echo":
        return None
    return Command(
        argv=(sys.executable, "-I", "-S", "-c", AGENT),
        env=child_environment(os.environ, task.request.env),
        stdin=prompt_bytes(task.request),
        capture="file",
        stderr="separate",
        interpreter=EchoInterpreter(),
    )


@hookimpl
def ebt_check_agent(agent):
    """Say whether the agent can work here."""
    return check_program("echo", "python3") if agent == "echo" else None
