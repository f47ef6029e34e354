"""Tools with which a voice assistant starts, follows and stops background tasks.

`AssistantTools` is the tool set. A module for each framework hands it over, and imports that
framework only when it is called: `openai_realtime`, `openai_agents`, `gemini_live`, `pipecat`,
`livekit`.
"""

from __future__ import annotations

from eventbus_tasks_voice.assistant.notifications import (
    NOTIFIED_EVENTS,
    Notification,
    NotificationStream,
    message_for,
    notification_for,
)
from eventbus_tasks_voice.assistant.schemas import Answer, Handler, Tool
from eventbus_tasks_voice.assistant.toolset import AssistantTools

__all__ = [
    "NOTIFIED_EVENTS",
    "Answer",
    "AssistantTools",
    "Handler",
    "Notification",
    "NotificationStream",
    "Tool",
    "message_for",
    "notification_for",
]
