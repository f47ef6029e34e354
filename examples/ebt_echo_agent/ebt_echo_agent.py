"""A plugin for an agent: names it, says what to execute, understands its lines."""

import sys

from eventbus_tasks import AgentMessage, AgentResult, agents, hookimpl

# What stands in for a real agent here: it says its prompt, and then that it is done.
AGENT = """
import json, sys
prompt = sys.stdin.buffer.read().decode("utf-8", "replace")
print(json.dumps({"type": "say", "text": prompt}))
print(json.dumps({"type": "done", "answer": prompt.upper()}))
"""


class EchoInterpreter(agents.JsonLinesInterpreter):
    """What the agent writes, as events; its last result decides. One object for each task."""

    def read(self, data):
        """Return what one line means."""
        match agents.text_in(data, "type"):
            case "say":
                yield AgentMessage(text=agents.text_in(data, "text"))
            case "done":
                yield AgentResult(ok=True, text=agents.text_in(data, "answer"))
            case kind:
                yield agents.unknown_event(kind)


@hookimpl
def ebt_register_agents(register):
    """Name the agent."""
    register("echo", "says what it is told")


@hookimpl
def ebt_build_command(task):
    """Say what to execute for a task."""
    if task.agent != "echo":
        return None
    argv = (sys.executable, "-ISc", AGENT)
    return agents.agent_command(task, argv, EchoInterpreter())


@hookimpl
def ebt_check_agent(agent):
    """Say whether the agent can work here."""
    return agents.check_program("echo", "python3") if agent == "echo" else None
