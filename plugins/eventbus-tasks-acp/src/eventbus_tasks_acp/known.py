"""The agents that speak the protocol: those that are known here, and those of the settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from eventbus_tasks import InvalidRequestError
from eventbus_tasks.agents import KnownBug

__all__ = ["AGENT", "KNOWN", "SESSION_VARIABLES", "AcpAgent", "AcpSettings", "find_agent"]

AGENT: Final = "acp"

_USER_ONLY: Final = {"user_only": True}

SESSION_VARIABLES: Final = frozenset(
    {
        # "You run inside this agent": some refuse to start then, or count themselves as a part.
        "CLAUDECODE",
        "CLAUDE_AGENT_SDK_VERSION",
        "CLAUDE_CODE_CHILD_SESSION",
        "CLAUDE_CODE_ENTRYPOINT",
        "CLAUDE_CODE_EXECPATH",
        "CODEX_SANDBOX",
        "CODEX_SANDBOX_NETWORK_DISABLED",
        "GEMINI_CLI",
        "OPENCODE",
        # Whose session that is, and how to reach it.
        "CLAUDE_CODE_SESSION_ACCESS_TOKEN",
        "CLAUDE_CODE_SESSION_ID",
        "CLAUDE_CODE_SSE_PORT",
        "CLAUDE_SESSION_ID",
        "CODEX_THREAD_ID",
        "GEMINI_CWD",
        "GEMINI_PROJECT_DIR",
        "GEMINI_SESSION_ID",
        "OPENCODE_PID",
        "OPENCODE_RUN_ID",
        "OPENCODE_SERVER_PASSWORD",
        "OPENCODE_SERVER_USERNAME",
    }
)
"""Variables that belong to one running session of some agent. Keys and settings stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpAgent:
    """An agent that speaks the protocol on its standard streams.

    Attributes:
        command: The program, and its arguments. The program is an absolute path, or a name that
            is searched in ``PATH``.
        description: For people.
        auth: Its name for the way to log in with (``authenticate``); empty where it is logged in
            already.
        variables: Names of variables that hold a key; for `ebt agents`.
        known_bugs: What is wrong with certain versions; for `ebt agents`.
    """

    command: tuple[str, ...]
    description: str = ""
    auth: str = ""
    variables: tuple[str, ...] = ()
    known_bugs: tuple[KnownBug, ...] = ()


KNOWN: Final[Mapping[str, AcpAgent]] = MappingProxyType(
    {
        "claude-acp": AcpAgent(
            command=("claude-agent-acp",),
            description="Claude Code, by npm's adapter @agentclientprotocol/claude-agent-acp",
            variables=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
        ),
        "codex-acp": AcpAgent(
            command=("codex-acp",),
            description="Codex, by npm's adapter @agentclientprotocol/codex-acp",
            variables=("OPENAI_API_KEY", "CODEX_API_KEY"),
            known_bugs=(
                KnownBug(what="calls an error of the API an end like any other; it is told apart"),
            ),
        ),
        "gemini-acp": AcpAgent(
            # Whether the directory is one to work in has been decided by whoever asks for the task.
            command=("gemini", "--acp", "--skip-trust"),
            description="Gemini CLI, which speaks the protocol itself",
            variables=("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS"),
            known_bugs=(
                KnownBug(what="calls a command that failed a success, and so do its events"),
                KnownBug(what="loses a session that is resumed in the minute in which it began"),
            ),
        ),
        "opencode-acp": AcpAgent(
            command=("opencode", "acp"),
            description="opencode, which speaks the protocol itself",
        ),
    }
)
"""The agents that were tried, by the names that they have here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcpSettings:
    """The table ``acp``. Honoured from users only: it chooses what is executed.

    Attributes:
        agents: Agents by name, each one a table with ``command`` (a list: the program and its
            arguments) and, where needed, ``auth`` and ``description``. They come on top of those
            that are known, and may replace one of them.
        start_deadline: Seconds that an agent has for each answer until its session is open.
    """

    agents: Mapping[str, Any] = field(default_factory=dict, metadata=_USER_ONLY, hash=False)
    start_deadline: float = field(default=60.0, metadata={**_USER_ONLY, "minimum": 0.1})


def find_agent(name: str, settings: AcpSettings) -> AcpAgent:
    """Return an agent by its name.

    Raises:
        InvalidRequestError: There is none of that name, or what the settings say about it cannot
            be used: says what and why.
    """
    if name in settings.agents:
        return _read(f"settings acp.agents.{name}", settings.agents[name], KNOWN.get(name))
    if name in KNOWN:
        return KNOWN[name]
    names = sorted({*KNOWN, *settings.agents})
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise InvalidRequestError(
        "agent", f"there is no agent {name!r}; {hint}known: {', '.join(names)}"
    )


_SETTABLE: Final = ("auth", "command", "description")


def _read(where: str, table: Any, known: AcpAgent | None) -> AcpAgent:
    if not isinstance(table, Mapping):
        raise InvalidRequestError(where, f"must be a table, not {table!r}")
    for key in table:
        if key not in _SETTABLE:
            problem = f"{key!r} is none of {', '.join(_SETTABLE)}"
            raise InvalidRequestError(where, problem)
    command = table.get("command", known.command if known is not None else None)
    if not (
        isinstance(command, (list, tuple))
        and command
        and all(isinstance(word, str) for word in command)
        and command[0]
    ):
        raise InvalidRequestError(f"{where}.command", "must be a list: program and arguments")
    words = {key: table.get(key, "") for key in ("auth", "description")}
    for key, value in words.items():
        if not isinstance(value, str):
            raise InvalidRequestError(f"{where}.{key}", f"must be a string, not {value!r}")
    kept = {item.name: getattr(known, item.name) for item in fields(AcpAgent) if known is not None}
    given = {key: value for key, value in words.items() if value}
    return AcpAgent(**{**kept, **given, "command": tuple(command)})
