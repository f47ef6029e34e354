"""The settings of this plugin: the table ``[disk]``."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["DiskSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSettings:
    """What is kept, and where.

    Attributes:
        enabled: Whether anything is kept at all.
        directory: Name of the directory in the project.
        markdown: Whether a readable file is written when a task has ended.
        markdown_limit: Bytes of each text that the readable file shows; of a longer one it shows
            the beginning and the end, and says what is left out. 0 shows everything.
    """

    enabled: bool = True
    # A cloned repository must not choose it: it could name a directory that means something.
    directory: str = field(default=".claude-tasks", metadata={"user_only": True})
    markdown: bool = True
    markdown_limit: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        """Refuse what is not the name of a directory in the project.

        Raises:
            SettingsError: Says what is wrong.
        """
        name = self.directory
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            from eventbus_tasks.errors import SettingsError

            problem = f"must be the name of a directory in the project, not {name!r}"
            raise SettingsError("settings", "disk.directory", problem)
        if self.markdown_limit < 0:
            from eventbus_tasks.errors import SettingsError

            problem = f"must be a number of bytes, or 0 for no limit, not {self.markdown_limit}"
            raise SettingsError("settings", "disk.markdown_limit", problem)
