"""What is announced, how urgently, and what became of it: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventbus_tasks import TaskRef

__all__ = ["Admission", "Announcement", "Delivery", "Kind", "Receipt", "Urgency", "Utterance"]


class Urgency(StrEnum):
    """When something may be said.

    ``interrupt``: at once, also over what is being said, and while the user speaks.
    ``when_idle``: when nobody speaks. ``silent``: never; it only counts as announced.
    """

    INTERRUPT = "interrupt"
    WHEN_IDLE = "when_idle"
    SILENT = "silent"


class Kind(StrEnum):
    """What an announcement is about. All but ``said`` can be told together in one sentence."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INPUT = "input_required"
    SAID = "said"


class Admission(StrEnum):
    """What became of an announcement that was offered.

    ``duplicate``: one with its key was offered before. ``full``: too much free text is waiting;
    announcements about tasks are never refused, because they can be counted.
    """

    ACCEPTED = "accepted"
    SILENT = "silent"
    DUPLICATE = "duplicate"
    FULL = "full"


class Delivery(StrEnum):
    """What became of an utterance: heard to its end, cut off (and repeated later), or given up."""

    DELIVERED = "delivered"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One thing to be said.

    Attributes:
        text: One short sentence, clean for speech.
        kind: What it is about.
        urgency: When it may be said.
        name: The task, as it is said.
        headline: A few words for a screen.
        key: What makes it the same as another one; ``""`` if it never is.
        task: Whose news it is, if a task's.
    """

    text: str
    kind: Kind = Kind.SAID
    urgency: Urgency = Urgency.WHEN_IDLE
    name: str = ""
    headline: str = ""
    key: str = ""
    task: TaskRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """What is said in one go: one announcement, or several together.

    Attributes:
        number: Grows; never the same twice in one queue.
        text: What to say.
        urgency: Of everything in it.
        announcements: What it tells, oldest first.
        count: How many announcements it tells: more than `announcements` holds when there were
            so many that some were only counted.
        attempt: 1, and more after it was interrupted.
    """

    number: int
    text: str
    urgency: Urgency
    announcements: tuple[Announcement, ...]
    count: int
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What became of announcements that were accepted.

    Attributes:
        delivery: What became of them; after ``interrupted`` another receipt follows.
        announcements: Those that are known one by one.
        count: How many there were in all.
        text: What was, or would have been, said.
        reason: Why, where it is not obvious.
    """

    delivery: Delivery
    announcements: tuple[Announcement, ...]
    count: int
    text: str = ""
    reason: str = ""
