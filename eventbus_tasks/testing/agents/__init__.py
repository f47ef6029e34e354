"""Driving real coding agents in tests, without a network, an account or money.

- `FakeModelAPI`: a model on loopback that does what the prompt says. It speaks a `Dialect` for each
  kind of client: `AnthropicMessages`, `OpenAIResponses`, `OpenAIChat`, `GeminiGenerateContent`.
- `ScriptedCli`: a process that plays recorded lines in the place of a real program, bugs included.
- `install_cli`, `find_cli`, `isolated_environment`: the real command-line programs, from npm, in a
  directory of their own, with no trace of whoever runs the tests.

The agent, its tools, its sessions and its handling of signals are the real ones; only the model is
ours::

    with FakeModelAPI() as api:
        env = isolated_environment(home, api.url)
        task = await engine.spawn_task("t", "fake:text Hello", project, agent="claude", env=env)
        assert (await task.wait()).result == "Hello"

Standard library only; nothing here needs pytest.
"""

from __future__ import annotations

from eventbus_tasks.testing.agents.anthropic import AnthropicMessages
from eventbus_tasks.testing.agents.clis import (
    CLAUDE,
    CLAUDE_ACP,
    CLIS,
    CODEX,
    CODEX_ACP,
    COPILOT,
    GEMINI,
    OPENCODE,
    CliPackage,
    CliUnavailableError,
    find_cli,
    install_cli,
    isolated_environment,
)
from eventbus_tasks.testing.agents.fake_api import Exchange, FakeModelAPI
from eventbus_tasks.testing.agents.gemini import GeminiGenerateContent
from eventbus_tasks.testing.agents.openai import OpenAIChat, OpenAIResponses
from eventbus_tasks.testing.agents.playing import AgentRun, play_agent
from eventbus_tasks.testing.agents.scenarios import (
    Conversation,
    Dialect,
    Failure,
    Reply,
    Silence,
    TextReply,
    ToolCall,
    huge_text,
)
from eventbus_tasks.testing.agents.scripted import ScriptedCli, ScriptStep

__all__ = [
    "CLAUDE",
    "CLAUDE_ACP",
    "CLIS",
    "CODEX",
    "CODEX_ACP",
    "COPILOT",
    "GEMINI",
    "OPENCODE",
    "AgentRun",
    "AnthropicMessages",
    "CliPackage",
    "CliUnavailableError",
    "Conversation",
    "Dialect",
    "Exchange",
    "Failure",
    "FakeModelAPI",
    "GeminiGenerateContent",
    "OpenAIChat",
    "OpenAIResponses",
    "Reply",
    "ScriptStep",
    "ScriptedCli",
    "Silence",
    "TextReply",
    "ToolCall",
    "find_cli",
    "huge_text",
    "install_cli",
    "isolated_environment",
    "play_agent",
]
