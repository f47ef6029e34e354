"""Modes and models: what an agent offers when it opens a session, and how one is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eventbus_tasks.agents import list_in, object_in, text_in

__all__ = ["choice", "current"]


def _config_option(opened: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Return the agent's configuration option for the mode or the model; empty if there is none."""
    for option in list_in(opened, "configOptions"):
        if isinstance(option, dict) and what in (
            text_in(option, "category"),
            text_in(option, "id"),
        ):
            return option
    return {}


def current(opened: Mapping[str, Any], what: str) -> str:
    """Return the mode or model that a session has been opened with, or ``""``."""
    older = object_in(opened, f"{what}s")
    key = "currentModeId" if what == "mode" else "currentModelId"
    return text_in(_config_option(opened, what), "currentValue") or text_in(older, key)


def choice(opened: Mapping[str, Any], what: str, wanted: str) -> tuple[str, dict[str, Any]] | None:
    """Return the request that chooses a mode or model, in the way this agent has offered.

    Args:
        opened: What the agent has said when it opened the session.
        what: ``"mode"`` or ``"model"``.
        wanted: The agent's name for it.
    """
    option = _config_option(opened, what)
    if option and wanted in set(_values(option)):
        return "session/set_config_option", {"configId": text_in(option, "id"), "value": wanted}
    listed, key = ("availableModes", "id") if what == "mode" else ("availableModels", "modelId")
    for item in list_in(object_in(opened, f"{what}s"), listed):
        if isinstance(item, dict) and wanted and text_in(item, key) == wanted:
            return f"session/set_{what}", {f"{what}Id": wanted}
    return None


def _values(option: Mapping[str, Any]) -> Iterator[str]:
    for item in list_in(option, "options"):
        if isinstance(item, dict):
            yield text_in(item, "value")
            yield from _values(item)  # a group of them
