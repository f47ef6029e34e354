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
        keep_days: Days for which ended tasks are kept; 0: for ever.
        keep_tasks: How many of the latest ended tasks are kept; 0: all.
        keep_bytes: Bytes on disk that ended tasks may have in all; 0: any number.
    """

    enabled: bool = True
    # A cloned repository must not choose it: it could name a directory that means something.
    directory: str = field(default=".claude-tasks", metadata={"user_only": True})
    markdown: bool = True
    markdown_limit: int = 64 * 1024 * 1024
    # What is removed concerns all projects of a user, so none of them may decide it.
    keep_days: float = field(default=0.0, metadata={"user_only": True})
    keep_tasks: int = field(default=0, metadata={"user_only": True})
    keep_bytes: int = field(default=0, metadata={"user_only": True})

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
        for key in ("markdown_limit", "keep_days", "keep_tasks", "keep_bytes"):
            if getattr(self, key) < 0:
                from eventbus_tasks.errors import SettingsError

                problem = f"must not be negative (0: no limit), not {getattr(self, key)}"
                raise SettingsError("settings", f"disk.{key}", problem)
