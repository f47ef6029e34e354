"""What travels to a guardian beside its specification."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Descriptors"]


@dataclass(slots=True, kw_only=True)
class Descriptors:
    """What a guardian is given; it owns all of it."""

    control: int
    bell: int
    spec: int
    stdin: int
    stdout: int
    host: int
    stderr: int | None = None
    lock: int | None = None
    end_record: int | None = None
    rendezvous: int | None = None

    def numbers(self) -> list[int]:
        """Return every descriptor that is there."""
        named = (getattr(self, name) for name in self.__slots__)
        return [number for number in named if number is not None]
