"""A scripted ``claude``: a real process that plays a scenario in Claude Code's event shapes.

Two halves in one file without dependencies. Imported, it makes lines of the stream and installs
the executable (`FakeClaude`). Executed, it is that executable: it writes down what it was given,
plays the scenario of the variable ``FAKE_CLAUDE``, and exits.

A scenario is a list of steps, each one with one key:

- ``{"line": {…}}``: one JSON line; the text ``$SESSION`` in it becomes the session asked for
- ``{"stdout": "…"}`` or ``{"stderr": "…"}``: text as it is
- ``{"wait": "SIGINT"}``: go on when that signal comes
- ``{"exit": 3}``: end with that status (without it: 0)
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

Step = dict[str, Any]

SESSION = "$SESSION"
MODEL = "claude-fake-1"
UUID = "5d4e7c1e-0000-4000-8000-000000000000"


# --------------------------------------------------------------------------------- the shapes


def init(**changes: Any) -> Step:
    """Return the first line of each turn."""
    fields = {
        "type": "system",
        "subtype": "init",
        "cwd": "/project",
        "tools": ["Bash", "Write"],
        "mcp_servers": [],
        "model": MODEL,
        "permissionMode": "default",
        "apiKeySource": "none",
        "claude_code_version": "2.1.330",
    }
    return _line(**{**fields, **changes})


def system(subtype: str, **fields: Any) -> Step:
    """Return another line of the type ``system``."""
    return _line(type="system", subtype=subtype, **fields)


def assistant(*blocks: Step, message_id: str = "msg_1", **usage: Any) -> Step:
    """Return one line of a message; the lines of one message share its id and its usage."""
    message = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(blocks),
        "usage": usage,
    }
    return _line(type="assistant", message=message, parent_tool_use_id=None)


def text(words: str, **keywords: Any) -> Step:
    """Return a line with one block of text."""
    return assistant({"type": "text", "text": words}, **keywords)


def thinking(words: str, **keywords: Any) -> Step:
    """Return a line with one block of thinking."""
    return assistant({"type": "thinking", "thinking": words, "signature": "c2ln"}, **keywords)


def delta(kind: str, words: str) -> Step:
    """Return a piece of a message, as ``--include-partial-messages`` adds them."""
    part = {"type": f"{kind}_delta", kind: words}
    event = {"type": "content_block_delta", "index": 0, "delta": part}
    return _line(type="stream_event", event=event, parent_tool_use_id=None)


def tool_use(call_id: str, name: str, **arguments: Any) -> Step:
    """Return a line that begins to use a tool."""
    return assistant({"type": "tool_use", "id": call_id, "name": name, "input": arguments})


def tool_result(call_id: str, content: Any, *, is_error: bool = False) -> Step:
    """Return a line that ends the use of a tool."""
    block = {
        "tool_use_id": call_id,
        "type": "tool_result",
        "content": content,
        "is_error": is_error,
    }
    message = {"role": "user", "content": [block]}
    result = {"stdout": content, "stderr": "", "interrupted": False}
    return _line(type="user", message=message, parent_tool_use_id=None, tool_use_result=result)


def result(words: Any = "done", **changes: Any) -> Step:
    """Return a ``result`` line; ``type`` is not its first key, as in the real one.

    A field of the value ``...`` is left out.
    """
    fields = {
        "is_error": False,
        "num_turns": 1,
        "subtype": "success",
        "total_cost_usd": 0.25,
        "usage": {"input_tokens": 10, "output_tokens": 5},
        "permission_denials": [],
        "terminal_reason": "completed",
        "api_error_status": None,
        "result": words,
        "type": "result",
        "duration_ms": 278,
        "result_index": 0,
        **changes,
    }
    return _line(**{name: value for name, value in fields.items() if value is not ...})


def denial(call_id: str, name: str, **arguments: Any) -> Step:
    """Return one entry of ``permission_denials``."""
    return {"tool_name": name, "tool_use_id": call_id, "tool_input": arguments}


def out(words: str) -> Step:
    """Write text to standard output, as it is."""
    return {"stdout": words}


def err(words: str) -> Step:
    """Write text to standard error, as it is."""
    return {"stderr": words}


def wait(name: str = "SIGINT") -> Step:
    """Wait for a signal."""
    return {"wait": name}


def leave(status: int) -> Step:
    """Exit with a status."""
    return {"exit": status}


def bare(step: Step) -> bytes:
    """Return what a step writes, without its line ending."""
    return json.dumps(step["line"]).encode()


def _line(**fields: Any) -> Step:
    return {
        "line": {**fields, "session_id": SESSION, "uuid": "5d4e7c1e-0000-4000-8000-000000000000"}
    }


# ---------------------------------------------------------------------------- the installation


class FakeClaude:
    """An executable named ``claude`` in a directory of its own.

    Attributes:
        directory: To be put into ``PATH``.
        executable: The program.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.executable = directory / "claude"
        self._record = directory / "record.json"
        self._scenarios = itertools.count(1)
        source = Path(__file__).read_text("utf-8")
        # -I and -S: what it records is what it was given, and it starts in 20 ms.
        self.executable.write_text(f"#!{sys.executable} -IS\n{source}", "utf-8")
        self.executable.chmod(0o700 | stat.S_IRUSR)

    def environment(self, *steps: Step) -> dict[str, str]:
        """Return the variables with which it plays these steps."""
        # Each its own: one that is being played is not changed by the next.
        scenario = self.directory / f"scenario-{next(self._scenarios)}.json"
        scenario.write_text(json.dumps(steps), "utf-8")
        return {
            "PATH": f"{self.directory}{os.pathsep}{os.environ['PATH']}",
            "FAKE_CLAUDE": str(scenario),
        }

    @property
    def record(self) -> dict[str, Any]:
        """What it was given: ``argv``, ``env``, ``cwd`` and ``stdin``, read to its end.

        Of several at the same time, what the last one was given that has begun to play.
        """
        data: dict[str, Any] = json.loads(self._record.read_text("utf-8"))
        data["stdin"] = bytes.fromhex(data["stdin"])
        return data


# ------------------------------------------------------------------------------ the executable


def _session(argv: list[str]) -> str:
    for flag in ("--session-id=", "--resume="):
        for word in argv:
            if word.startswith(flag):
                return word.removeprefix(flag)
    return "00000000-0000-4000-8000-000000000000"


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _play() -> int:
    given = {
        "argv": sys.argv,
        "env": dict(os.environ),
        "cwd": os.getcwd(),
        "stdin": sys.stdin.buffer.read().hex(),
    }
    scenario = Path(os.environ["FAKE_CLAUDE"])
    # Each process writes a file of its own: others may begin at the same time.
    unfinished = scenario.with_name(f"record-{os.getpid()}.part")
    unfinished.write_text(json.dumps(given), "utf-8")
    unfinished.replace(scenario.with_name("record.json"))

    steps = json.loads(scenario.read_text("utf-8"))
    # Blocked before the first output: whoever has seen output can send one, and none is missed.
    awaited = {signal.Signals[step["wait"]] for step in steps if "wait" in step}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    session = _session(sys.argv)
    for step in steps:
        match step:
            case {"line": fields}:
                line = json.dumps(fields, ensure_ascii=False).replace(SESSION, session)
                _write_all(1, line.encode("utf-8", "surrogatepass") + b"\n")
            case {"stdout": words}:
                _write_all(1, words.encode())
            case {"stderr": words}:
                _write_all(2, words.encode())
            case {"wait": name}:
                signal.sigwait({signal.Signals[name]})
            case {"exit": status}:
                return int(status)
    return 0


if __name__ == "__main__":
    sys.exit(_play())
