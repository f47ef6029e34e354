"""A scripted agent that speaks the protocol: a real process, with the misbehaviour of real ones.

Two halves in one file. Imported, it installs the executable (`FakeAgent`). Executed, it is that
agent: each line of a prompt is a step of its turn. Standard library only.

=====================  ===========================================================================
``say WORDS``          a chunk of its message
``think WORDS``        a chunk of a thought
``tool ID WORDS``      uses a tool: begins, and completes
``fail ID WORDS``      the same, and it fails
``ask ID WORDS``       uses a tool for which it asks; says afterwards what was answered
``update JSON``        any update
``line TEXT``          any line
``request METHOD``     asks the client for something else; says what was answered
``history``            says every prompt of the session, one per line
``wait``               goes on when the turn is cancelled, and ends it so
``deaf``               never goes on; says so when the turn is cancelled
``stop REASON``        ends the turn for that reason (without it: ``end_turn``)
``result JSON``        ends the turn with more in its answer
``error JSON``         answers the prompt with an error
``die STATUS``         exits in the middle of the turn
=====================  ===========================================================================

How it behaves outside of turns is said by the variable ``FAKE_ACP``, the JSON of `Manners`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

SESSION = "session-1"

OPTIONS = (
    {"optionId": "always", "name": "Always", "kind": "allow_always"},
    {"optionId": "once", "name": "Allow", "kind": "allow_once"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
)


@dataclass(kw_only=True)
class Manners:
    """How the agent behaves outside of turns.

    Attributes:
        mute: The methods that it never answers.
        errors: Errors with which it answers methods.
        initialized: What is different in its answer to ``initialize``.
        opened: What is more in its answer to ``session/new`` and the like.
        options: What it offers with a permission request.
        replay: When it tells an old conversation once more: ``"before"`` the answer to
            ``session/load``, or ``"after"`` it.
        session: The session that it opens; ``None`` for another one in each process, as real
            agents do.
        stays: It does not exit when its input ends, but when somebody sends it a signal.
    """

    mute: list[str] = field(default_factory=list)
    errors: dict[str, Any] = field(default_factory=dict)
    initialized: dict[str, Any] = field(default_factory=dict)
    opened: dict[str, Any] = field(default_factory=dict)
    options: list[dict[str, str]] = field(default_factory=lambda: list(OPTIONS))
    replay: str = "before"
    session: str | None = SESSION
    stays: bool = False


class FakeAgent:
    """The executable, in a directory of its own.

    Args:
        directory: Where; made if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.executable: Path = directory / "fake-acp"
        source = Path(__file__).read_text("utf-8")
        # -I and -S: it starts in 20 ms, and imports nothing that is not Python's own.
        self.executable.write_text(f"#!{sys.executable} -IS\n{source}", "utf-8")
        self.executable.chmod(0o700)
        self._log = directory / "log"

    def environment(self, manners: Manners | None = None) -> dict[str, str]:
        """Return the variables with which it behaves so."""
        wanted = json.dumps(asdict(manners or Manners()))
        return {"FAKE_ACP": wanted, "FAKE_ACP_LOG": str(self._log)}

    @property
    def given(self) -> list[dict[str, Any]]:
        """Return every message that it was sent, in order."""
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines()]

    def given_methods(self) -> list[str]:
        """Return the methods of the requests and notifications that it was sent, in order."""
        return [message["method"] for message in self.given if "method" in message]


class _Playing:
    """The agent, when it is executed."""

    def __init__(self) -> None:
        self.manners = Manners(**json.loads(os.environ["FAKE_ACP"]))
        self.session = self.manners.session or f"session-of-{os.getpid()}"
        self.log = Path(os.environ["FAKE_ACP_LOG"])
        self.log.write_text("", "utf-8")
        self.prompts: list[str] = []
        self.number = 100
        self.turn: Any = None  # the number of the prompt that it works on
        self.cancelled = False

    def write(self, **message: Any) -> None:
        print(json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False), flush=True)

    def update(self, sort: str, /, **fields: Any) -> None:
        update = {"sessionUpdate": sort, **fields}
        self.write(method="session/update", params={"sessionId": self.session, "update": update})

    def chunk(self, kind: str, text: str) -> None:
        self.update(kind, content={"type": "text", "text": text})

    def read(self) -> dict[str, Any]:
        line = sys.stdin.readline()
        if not line:
            if self.manners.stays:
                import signal

                signal.pause()
            sys.exit(0)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(line)
        message: dict[str, Any] = json.loads(line)
        return message

    def live(self) -> NoReturn:
        while True:
            message = self.read()
            if "method" in message:
                self.handle(message)

    def handle(self, message: dict[str, Any]) -> None:
        method, number = message["method"], message.get("id")
        if method == "session/cancel":
            self.cancelled = True
        elif method in self.manners.mute:
            pass
        elif method in self.manners.errors:
            self.write(id=number, error=self.manners.errors[method])
        elif method == "initialize":
            result = {
                "protocolVersion": 1,
                "agentCapabilities": {},
                "agentInfo": {"name": "fake", "version": "1.2.3"},
                **self.manners.initialized,
            }
            self.write(id=number, result=result)
        elif method == "session/prompt":
            if self.turn is not None:
                self.write(id=number, error={"code": -32600, "message": "it is busy"})
                return
            self.turn, self.cancelled = number, False
            self.play(message["params"]["prompt"][0]["text"])
            self.turn = None
        elif method == "session/load":
            if self.manners.replay == "before":
                self.tell_again()
            self.write(id=number, result=self.manners.opened)
            if self.manners.replay == "after":
                self.tell_again()
        else:
            opened = {"sessionId": self.session} if method == "session/new" else {}
            self.write(id=number, result={**opened, **self.manners.opened})

    def tell_again(self) -> None:
        self.chunk("user_message_chunk", "what was asked")
        self.chunk("agent_message_chunk", "what was answered")

    def play(self, prompt: str) -> None:
        self.prompts.append(prompt)
        result: dict[str, Any] = {"stopReason": "end_turn"}
        for step in prompt.splitlines():
            word, _, rest = step.partition(" ")
            match word:
                case "say":
                    self.chunk("agent_message_chunk", rest)
                case "think":
                    self.chunk("agent_thought_chunk", rest)
                case "tool" | "fail":
                    self.use(rest, "completed" if word == "tool" else "failed")
                case "ask":
                    self.ask(rest)
                case "update":
                    self.update("", **json.loads(rest))
                case "line":
                    print(rest, flush=True)
                case "request":
                    answer = self.wait_for(self.request(rest, {}))
                    self.chunk("agent_message_chunk", str(answer.get("error", {}).get("code")))
                case "history":
                    self.chunk("agent_message_chunk", "\n".join(self.prompts))
                case "wait":
                    while not self.cancelled:
                        self.look()
                    result["stopReason"] = "cancelled"
                case "deaf":
                    while True:
                        self.look()
                        if self.cancelled:
                            self.chunk("agent_message_chunk", "I do not listen.")
                case "stop":
                    result["stopReason"] = rest
                case "result":
                    result.update(json.loads(rest))
                case "error":
                    self.write(id=self.turn, error=json.loads(rest))
                    return
                case "die":
                    sys.exit(int(rest))
        self.write(id=self.turn, result=result)

    def look(self) -> None:
        """Take one message in the middle of a turn."""
        message = self.read()
        if "method" in message:
            self.handle(message)

    def use(self, words: str, status: str) -> None:
        call_id, _, title = words.partition(" ")
        self.update("tool_call", toolCallId=call_id, title=title, kind="execute", status="pending")
        text = {"type": "content", "content": {"type": "text", "text": f"{title} has {status}"}}
        self.update("tool_call_update", toolCallId=call_id, status=status, content=[text])

    def ask(self, words: str) -> None:
        call_id, _, title = words.partition(" ")
        call = {
            "toolCallId": call_id,
            "title": title,
            "kind": "edit",
            "rawInput": {"file_path": f"/{title}"},
        }
        params = {"sessionId": self.session, "toolCall": call, "options": self.manners.options}
        outcome = self.wait_for(self.request("session/request_permission", params))["result"]
        chosen = outcome["outcome"].get("optionId", outcome["outcome"]["outcome"])
        if chosen in ("once", "always"):
            self.update("tool_call_update", toolCallId=call_id, status="completed")
        # One that is refused is not told of any more: like Gemini's.
        self.chunk("agent_message_chunk", f"answered: {chosen}")

    def request(self, method: str, params: dict[str, Any]) -> int:
        self.number += 1
        self.write(id=self.number, method=method, params=params)
        return self.number

    def wait_for(self, number: int) -> dict[str, Any]:
        while True:
            message = self.read()
            if "method" in message:
                self.handle(message)
            elif message["id"] == number:
                return message


if __name__ == "__main__":
    _Playing().live()
