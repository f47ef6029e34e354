"""Plugins and the command line: what they add to it, and that none can break it."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

COMMANDS = """
from eventbus_tasks import hookimpl, InvalidRequestError

@hookimpl
def ebt_register_commands(register):
    register("greet", "say hello to somebody", configure)
    register("crash", "fail in an unexpected way", lambda parser: parser.set_defaults(run=crash))
    register("refuse", "refuse", lambda parser: parser.set_defaults(run=refuse))
    register("mistake", "cannot be set up", lambda parser: 1 / 0)
    register("run", "takes over a command of ebt", configure)

def configure(parser):
    parser.add_argument("who")
    parser.set_defaults(run=greet)

def greet(arguments):
    print("hello", arguments.who)
    return 5

def crash(arguments):
    raise RuntimeError("unexpected")

def refuse(arguments):
    raise InvalidRequestError("who", "must be somebody else")
"""

BROKEN = "import no_such_module_of_mine\n"


def test_list_names_what_is_broken(ebt: Any, make_plugin: Any) -> None:
    """The list shows every plugin with its distribution, and why one does not work."""
    make_plugin("greeter", COMMANDS)
    environ = make_plugin("rotten", BROKEN)
    running = ebt("plugins", environ=environ)
    assert running.wait() == (0, "")
    lines = running.seen.decode().splitlines()
    (good,) = [line.split() for line in lines if line.startswith("greeter")]
    assert good == ["greeter", "active", "ebt-fake-greeter", "1.2", "ebt_register_commands"]
    (bad,) = [number for number, line in enumerate(lines) if line.startswith("rotten")]
    assert lines[bad].split()[:4] == ["rotten", "broken", "ebt-fake-rotten", "1.2"]
    assert "no_such_module_of_mine" in lines[bad + 1]


def test_list_as_json(ebt: Any, make_plugin: Any) -> None:
    """With --json the list is one array with the same facts."""
    make_plugin("greeter", COMMANDS)
    environ = {**make_plugin("rotten", BROKEN), "EBT_DISABLE_PLUGINS": "greeter"}
    running = ebt("plugins", "--json", environ=environ)
    assert running.wait() == (0, "")
    states = {item["name"]: item for item in json.loads(running.seen)}
    assert states["greeter"]["state"] == "disabled"
    assert "EBT_DISABLE_PLUGINS" in states["greeter"]["reason"]
    assert states["rotten"]["state"] == "broken"
    assert states["core-command"]["builtin"] is True


def test_broken_plugin_is_no_obstacle(ebt: Any, make_plugin: Any) -> None:
    """A plugin that cannot be imported is named in one line, and the task runs."""
    running = ebt("run", "--", "echo", "works", environ=make_plugin("rotten", BROKEN))
    code, errors = running.wait()
    assert (code, running.seen) == (0, b"works\n")
    assert len(errors.splitlines()) == 1
    assert "rotten" in errors


def test_help_lists_commands_of_plugins(ebt: Any, make_plugin: Any) -> None:
    """Commands that plugins add stand in the help beside our own."""
    running = ebt("--help", environ=make_plugin("greeter", COMMANDS))
    assert running.wait()[0] == 0
    text = running.seen.decode()
    assert "say hello to somebody" in text
    assert "takes over" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "output", "words"),
    [
        (["greet", "world"], 5, "hello world\n", ""),
        (["greet"], 2, "", "ebt greet --help"),
        (["crash"], 70, "", "'greeter' failed: RuntimeError: unexpected"),
        (["refuse"], 2, "", "must be somebody else"),
        (["mistake"], 70, "", "'greeter' failed: ZeroDivisionError"),
    ],
)
def test_command_of_a_plugin(
    ebt: Any, make_plugin: Any, arguments: list[str], code: int, output: str, words: str
) -> None:
    """A plugin's command runs and its exit code counts; what goes wrong in it is one line."""
    running = ebt(*arguments, environ=make_plugin("greeter", COMMANDS))
    exit_code, errors = running.wait()
    assert exit_code == code
    assert running.seen.decode() == output
    assert len(errors.splitlines()) == bool(words)
    assert words in errors


def test_quick_command(ebt: Any, make_plugin: Any) -> None:
    """A command that is an entry point by itself runs, and no other plugin is loaded for it."""
    environ = {
        **make_plugin("greeter", COMMANDS, quick="greet"),
        **make_plugin("loud", "import sys; sys.stderr.write('loaded')"),
    }
    running = ebt("greet", "world", environ=environ)
    assert running.wait() == (5, "")
    assert running.seen == b"hello world\n"


@pytest.mark.parametrize("setting", [{"EBT_DISABLE_PLUGINS": "greeter"}, {"EBT_PLUGINS": "other"}])
def test_quick_command_of_a_plugin_that_is_off(
    ebt: Any, make_plugin: Any, setting: dict[str, str]
) -> None:
    """A command of a plugin that is not wanted does not exist, quick or not."""
    environ = {**make_plugin("greeter", COMMANDS, quick="greet"), **setting}
    code, errors = ebt("greet", "world", environ=environ).wait()
    assert code == 2
    assert "there is no command 'greet'" in errors


def test_quick_command_that_is_broken(ebt: Any, make_plugin: Any) -> None:
    """A quick command that cannot be imported is reported as its plugin is."""
    code, errors = ebt("greet", environ=make_plugin("greeter", BROKEN, quick="greet")).wait()
    assert code == 2
    assert "plugin 'greeter' of ebt-fake-greeter is broken" in errors


@pytest.mark.parametrize("command", ["ls", "show", "logs"])
def test_command_that_needs_a_plugin(ebt: Any, command: str) -> None:
    """A command of a plugin that is not installed says which one to install."""
    if any(found.name == "disk" for found in metadata.entry_points(group="eventbus_tasks")):
        pytest.skip("the plugin is installed")
    running = ebt(command)
    code, errors = running.wait()
    assert code == 2
    needs = "needs the plugin eventbus-tasks-disk: ebt plugins install eventbus-tasks-disk"
    assert errors == f"ebt: {command} {needs}\n"


AGENT = """
import json, os, sys
from eventbus_tasks import (
    AgentMessage, AgentResult, AgentSession, AgentToolFinished, AgentToolStarted, Command, Reason,
    Verdict, hookimpl,
)

class Interpreter:
    def __init__(self):
        self.result = None

    def interpret(self, line, stream):
        if stream != "stdout" or not line.startswith(b"{"):
            return
        data = json.loads(line)
        kind = {"session": AgentSession, "say": AgentMessage, "tool": AgentToolStarted,
                "done": AgentToolFinished, "result": AgentResult}[data.pop("type")]
        event = kind(**data)
        if kind is AgentResult:
            self.result = event
        yield event

    def verdict(self, exit):
        if self.result is None:
            return Verdict(reason=Reason.NO_RESULT, message="it never gave an answer")
        if not self.result.ok:
            return Verdict(reason=Reason.AGENT_ERROR, message=self.result.text)
        return Verdict(reason=Reason.EXITED, result=self.result.text)

@hookimpl
def ebt_register_agents(register):
    register("parrot", "repeats what it is told", resumes=True)
    register("plain", "writes plain text")

@hookimpl
def ebt_build_command(task):
    if task.agent == "parrot":
        return Command(argv=("sh",), stdin=task.prompt.encode(), stderr="separate", capture="file",
                       env={**os.environ, "OPTIONS": json.dumps(dict(task.request.options))},
                       interpreter=Interpreter())
    if task.agent == "plain":
        return Command(argv=("sh",), stdin=task.prompt.encode())
"""

SESSION = """echo '{"type": "session", "session_id": "s-1", "model": "m"}'"""
WORK = (
    SESSION
    + """
echo '{"type": "say", "text": "I look \\u001b[31maround"}'
echo '{"type": "tool", "tool": "Bash", "summary": "ls -la"}'
echo '{"type": "done", "tool": "Bash", "status": "error", "summary": "no such file"}'
echo noise >&2
"""
)
ANSWER = """echo '{"type": "result", "ok": true, "text": "All is well."}'"""


def test_agent_in_a_pipe(ebt: Any, make_plugin: Any) -> None:
    """Of an agent a pipe gets what it says, and its answer, as text."""
    environ = make_plugin("parrot", AGENT)
    running = ebt("run", "--agent", "parrot", WORK + ANSWER, environ=environ)
    assert running.wait() == (0, "noise\n")
    assert running.seen.decode() == "I look around\nAll is well.\n"


def test_agent_at_a_terminal(ebt: Any, make_plugin: Any) -> None:
    """On a terminal one sees what the agent does, line by line, and no JSON."""
    environ = {**make_plugin("parrot", AGENT), "TERM": "dumb"}
    running = ebt("run", "-n", "n", "-a", "parrot", WORK + ANSWER, terminal=True, environ=environ)
    code, errors = running.wait()
    assert code == 0
    lines = running.seen.decode().splitlines()
    # Behind a tool stands what has come together so far: the time, which no test knows.
    assert re.fullmatch(r"✗ Bash: no such file · 0:\d\d", lines.pop(3))
    assert lines == ["• session s-1, m", "I look around", "→ Bash: ls -la", "All is well."]
    assert errors.splitlines()[-1].startswith("ebt: n: done (")


def test_activity_is_shown_when_it_happens(ebt: Any, make_plugin: Any, gate: Any) -> None:
    """A message can be read while the agent goes on working."""
    script = f"{WORK}\n{gate.wait}\n{ANSWER}"
    running = ebt("run", "-a", "parrot", script, environ=make_plugin("parrot", AGENT))
    assert b"All is well" not in running.read_until(b"I look around\n")
    gate.open()
    assert running.wait()[0] == 0


@pytest.mark.parametrize("last", ["well.", "All is well."], ids=["last piece", "whole"])
def test_answer_is_not_repeated(ebt: Any, make_plugin: Any, last: str) -> None:
    """An answer that is the last message anyway is shown once, and so is one told in pieces."""
    script = (
        """echo '{"type": "say", "text": "All is ", "delta": true}'\n"""
        f"""echo '{{"type": "say", "text": "{last}"}}'\n""" + ANSWER
    )
    running = ebt("run", "-a", "parrot", script, environ=make_plugin("parrot", AGENT))
    assert running.wait()[0] == 0
    assert running.seen.decode() == "All is well.\n"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (WORK, "it never gave an answer"),
        ("""echo '{"type": "result", "ok": false, "text": "no credit"}'""", "no credit"),
        (SESSION + "; exit 145", ""),
    ],
)
def test_agent_that_fails(ebt: Any, make_plugin: Any, script: str, message: str) -> None:
    """An agent that fails gives 1, whatever it exits with, and one line says why."""
    running = ebt("run", "-a", "parrot", "-n", "n", script, environ=make_plugin("parrot", AGENT))
    code, errors = running.wait()
    assert code == 1
    assert errors.splitlines()[-1].startswith("ebt: n: ")
    assert message in errors.splitlines()[-1]


@pytest.mark.parametrize("dash", ["", "-"])
def test_prompt_from_standard_input(ebt: Any, make_plugin: Any, project: Path, dash: str) -> None:
    """Without a prompt, or with -, the prompt is what is piped in."""
    environ = {**make_plugin("parrot", AGENT), "PYTHON": sys.executable}
    (project / "prompt").write_text(ANSWER)
    script = f'cd project; exec "$PYTHON" -m eventbus_tasks run -a parrot {dash} < prompt'
    # The outer ebt is only a convenient way to run a shell.
    running = ebt("run", "-C", str(project.parent), "--", "sh", "-c", script, environ=environ)
    assert running.wait()[0] == 0
    assert running.seen == b"All is well.\n"


def test_options_reach_the_plugin(ebt: Any, make_plugin: Any) -> None:
    """Options are JSON where they can be read as such, and words otherwise."""
    script = """printf '%s' "$OPTIONS" > options\n""" + ANSWER
    environ = make_plugin("parrot", AGENT)
    options = ["-o", "turns=3", "-o", "model=opus", "-o", 'tools=["a"]', "-o", "empty="]
    assert ebt("run", "-a", "parrot", *options, script, environ=environ).wait()[0] == 0
    running = ebt("run", "--", "cat", "options")
    assert running.wait()[0] == 0
    assert json.loads(running.seen) == {"turns": 3, "model": "opus", "tools": ["a"], "empty": ""}


def test_resume_is_an_option(ebt: Any, make_plugin: Any) -> None:
    """--resume SESSION is the option `resume` of a plugin that can; who cannot, is refused."""
    script = """printf '%s' "$OPTIONS" > options\n""" + ANSWER
    environ = make_plugin("parrot", AGENT)
    assert ebt("run", "-a", "parrot", "--resume", "s-1", script, environ=environ).wait()[0] == 0
    running = ebt("run", "--", "cat", "options")
    assert running.wait()[0] == 0
    assert json.loads(running.seen) == {"resume": "s-1"}
    code, errors = ebt("run", "--resume", "s-1", "--", "true").wait()
    assert code == 2
    assert "no session" in errors
    code, errors = ebt("run", "-a", "plain", "--resume", "s-1", "hello", environ=environ).wait()
    assert code == 2
    assert "'plain' cannot go on with a session" in errors


def test_raw_is_the_output_of_the_agent(ebt: Any, make_plugin: Any) -> None:
    """--raw writes the agent's own lines, byte for byte, and nothing else."""
    running = ebt("run", "--raw", "-a", "parrot", ANSWER, environ=make_plugin("parrot", AGENT))
    assert running.wait()[0] == 0
    (line,) = running.seen.splitlines()
    assert json.loads(line)["type"] == "result"


def test_agents_are_listed(ebt: Any, make_plugin: Any, tmp_path: Path) -> None:
    """`ebt agents` says what each plugin knows about its agent, also what it fails to say."""
    source = """
    from eventbus_tasks import hookimpl
    from eventbus_tasks.agents import KnownBug, check_program

    @hookimpl
    def ebt_register_agents(register):
        for name in ("ghost", "parrot", "rude"):
            register(name, "an agent")

    @hookimpl
    def ebt_check_agent(agent):
        if agent == "rude":
            raise RuntimeError("no comment")
        bugs = [KnownBug(what="sings", since="1.2", fixed="1.10")]
        return check_program(agent, agent, known_bugs=bugs, variables=["PARROT_KEY"])
    """
    program = tmp_path / "bin" / "parrot"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho parrot-cli 1.9.3 '(beta)'\n")
    program.chmod(0o700)
    environ = make_plugin("birds", source)
    environ["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environ["PARROT_KEY"] = "secret"
    running = ebt("agents", "--json", environ=environ)
    assert running.wait()[0] == 0
    found = {item["agent"]: item for item in json.loads(running.seen)}
    parrot = found["parrot"]
    assert (parrot["ok"], parrot["program"]) == (True, str(program))
    assert (parrot["version"], parrot["login"]) == ("1.9.3", "PARROT_KEY")
    assert parrot["known_bugs"] == ["sings"]
    assert not found["ghost"]["ok"]
    assert "PATH" in found["ghost"]["problems"][0]
    assert "no comment" in found["rude"]["problems"][0]
    running = ebt("agents", "parrot", "ghost", environ=environ)
    assert running.wait()[0] == 1
    assert b"secret" not in running.seen
    assert b"known: sings" in running.seen
    assert ebt("agents", "nobody", environ=environ).wait()[0] != 0


def test_agent_that_writes_plain_text(ebt: Any, make_plugin: Any, gate: Any) -> None:
    """The text of an agent without an interpreter is shown as it comes, its JSON at the end."""
    script = f"""echo plain; echo '{{"x": 1}}'; {gate.wait}; echo text"""
    running = ebt("run", "-a", "plain", script, environ=make_plugin("parrot", AGENT))
    running.read_until(b"plain\n")
    gate.open()
    assert running.wait()[0] == 0
    assert running.seen.decode().splitlines() == ["plain", "text", '{"x": 1}']


def test_missing_agent_program(ebt: Any, make_plugin: Any) -> None:
    """An agent whose program is not installed gives 127 and a line that names it."""
    source = """
    from eventbus_tasks import Command, hookimpl

    @hookimpl
    def ebt_register_agents(register):
        register("ghost", "is not installed")

    @hookimpl
    def ebt_build_command(task):
        return Command(argv=("no-such-agent-program",)) if task.agent == "ghost" else None
    """
    code, errors = ebt("run", "-a", "ghost", "boo", environ=make_plugin("ghost", source)).wait()
    assert code == 127
    assert "no-such-agent-program" in errors
    assert len(errors.splitlines()) == 1
