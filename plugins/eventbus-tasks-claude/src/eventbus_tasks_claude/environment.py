"""What the environment for Claude must not have: the traces of a session around it."""

from __future__ import annotations

from typing import Final

__all__ = ["SESSION_VARIABLES"]

SESSION_VARIABLES: Final = frozenset(
    {
        # "You run inside Claude Code": it then refuses to start, or counts itself as a part.
        "CLAUDECODE",
        "CLAUDE_CODE_ENTRYPOINT",
        "CLAUDE_CODE_CHILD_SESSION",
        "CLAUDE_CODE_EXECPATH",
        "CLAUDE_AGENT_SDK_VERSION",
        "CLAUDE_CODE_TMUX_SESSION",
        # Whose session that is, and its keys.
        "CLAUDE_SESSION_ID",
        "CLAUDE_CODE_SESSION_ID",
        "CLAUDE_CODE_PARENT_SESSION_ID",
        "CLAUDE_CODE_REMOTE_SESSION_ID",
        "CLAUDE_CODE_SESSION_ACCESS_TOKEN",
        "CLAUDE_CODE_AGENT_ID",
        "CLAUDE_CODE_AGENT_NAME",
        "CLAUDE_CODE_TEAM_NAME",
        # Its editor: two sessions on one connection disturb each other.
        "CLAUDE_CODE_SSE_PORT",
        # Numbers of descriptors that exist in that session only.
        "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR",
        "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR",
        "CLAUDE_CODE_WEBSOCKET_AUTH_FILE_DESCRIPTOR",
        # What its hooks and plugins are told.
        "CLAUDE_ENV_FILE",
        "CLAUDE_PLUGIN_ROOT",
        "CLAUDE_PROJECT_DIR",
    }
)
"""Variables that belong to one running session. All other ``CLAUDE_…`` ones are a user's own
configuration (``CLAUDE_CODE_USE_BEDROCK``, ``CLAUDE_CONFIG_DIR`` …) and stay."""
