"""What the fake model does: a prompt is its script, whichever API the client speaks.

A line of the prompt that begins with ``fake:`` is one step:

========================  =================================================================
``fake:text WORDS``       answer with these words
``fake:shell COMMAND``    call the client's shell tool
``fake:write PATH WORDS`` call the client's tool that writes a file (an absolute path)
``fake:history``          answer with every prompt of the conversation, one per line
``fake:slow N SECONDS``   answer in N pieces with a pause after each part of the stream
``fake:huge BYTES``       answer with `huge_text`
``fake:error STATUS``     refuse the request with this HTTP status, again and again
``fake:flaky N STATUS``   refuse N requests, then answer
``fake:silent``           take the request and never answer
``fake:stall``            begin an answer and never go on
``fake:drop``             cut the connection in the middle of an answer
========================  =================================================================

The first step answers the prompt, the second the result of the tool that the first one called, and
so on; after the last one the model says ``Done.``. A prompt without a step is answered with
``You said: …``.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

__all__ = [
    "Conversation",
    "Dialect",
    "Failure",
    "Reply",
    "Silence",
    "Step",
    "TextReply",
    "ToolCall",
    "huge_text",
    "next_step",
    "reply_to",
]

_STEP: Final = re.compile(r"^fake:([a-z]+)(?:[ \t]+(.*?))?[ \t]*$", re.MULTILINE)
_PIECE: Final = 4096
"""Characters in a piece of a huge answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a client has sent, as far as the fake model looks at it.

    Attributes:
        prompts: What the user has said, oldest first; the last one is the script.
        rounds: How many times results of tools have come since the last prompt.
        results: Those results.
        tools: Names of the tools that the client offers.
        model: The model that was asked for.
        streamed: The answer is wanted piece by piece.
    """

    prompts: tuple[str, ...]
    rounds: int = 0
    results: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    model: str = ""
    streamed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TextReply:
    """An answer in words.

    Attributes:
        pieces: The text, in the pieces in which it is streamed.
        pause: Seconds after each part of the stream.
        ending: ``"complete"``; or after the last piece ``"stall"`` (nothing more comes) or
            ``"drop"`` (the connection is cut).
    """

    pieces: tuple[str, ...]
    pause: float = 0.0
    ending: str = "complete"

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A wish to use a tool.

    Attributes:
        kind: ``"shell"`` (with the argument ``command``) or ``"write"`` (with ``path`` and
            ``content``); the dialect knows what the client calls it.
        arguments: Its arguments.
    """

    kind: str
    arguments: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error instead of an answer.

    Attributes:
        status: The HTTP status.
        message: What the API says about it.
    """

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer at all: the request is taken, and nothing comes until the client leaves."""


Reply = TextReply | ToolCall | Failure | Silence


class Dialect(Protocol):
    """How one kind of client talks to its model: a pure translation, shared by all threads."""

    def serves(self, path: str) -> bool:
        """Whether requests for a model come to this path (without the query)."""

    def read(self, path: str, body: Mapping[str, Any]) -> Conversation:
        """Return what a request says."""

    def stream(self, reply: TextReply | ToolCall, conversation: Conversation) -> Iterator[bytes]:
        """Yield the parts of a streamed answer; for ``stall`` and ``drop`` only the beginning."""

    def whole(self, reply: TextReply | ToolCall, conversation: Conversation) -> bytes:
        """Return an answer in one JSON object."""

    def error(self, failure: Failure) -> bytes:
        """Return the body of an error."""

    def accepts(self, headers: Mapping[str, str], key: str) -> bool:
        """Whether the headers, with names in lower case, carry this API key."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a script.

    Attributes:
        word: What to do.
        argument: The rest of the line.
    """

    word: str
    argument: str = ""


def huge_text(size: int) -> str:
    """Return a text of so many ASCII characters in which every line is another one."""
    lines = (f"line {number:010d} of a long answer\n" for number in itertools.count(1))
    found: list[str] = []
    length = 0
    while length < size:
        found.append(next(lines))
        length += len(found[-1])
    text = "".join(found)[:size]
    # Clients may strip white space at the end of an answer.
    return text[:-1] + "." if text.endswith(("\n", " ")) else text


def next_step(conversation: Conversation) -> Step | None:
    """Return the step whose turn it is, or ``None`` where the script has none (any more)."""
    steps = _STEP.findall(conversation.prompts[-1]) if conversation.prompts else []
    return Step(*steps[conversation.rounds]) if conversation.rounds < len(steps) else None


def reply_to(conversation: Conversation, *, failures: int = 0) -> Reply:
    """Return what the fake model does next.

    Args:
        conversation: What it was sent.
        failures: How often this conversation was refused already.

    Raises:
        ValueError: The script has a step that does not exist, or with a wrong argument.
    """
    step = next_step(conversation)
    if step is None:
        if conversation.rounds:
            return TextReply(pieces=("Done.",))
        last = conversation.prompts[-1] if conversation.prompts else ""
        return TextReply(pieces=(f"You said: {last}",))
    argument = step.argument
    match step.word:
        case "text":
            return TextReply(pieces=(argument,))
        case "shell":
            return ToolCall(kind="shell", arguments={"command": argument})
        case "write":
            path, _, content = argument.partition(" ")
            return ToolCall(kind="write", arguments={"path": path, "content": content})
        case "history":
            return TextReply(pieces=("\n".join(conversation.prompts),))
        case "slow":
            count, seconds = argument.split()
            pieces = tuple(f"piece {number}\n" for number in range(1, int(count) + 1))
            return TextReply(pieces=pieces, pause=float(seconds))
        case "huge":
            text = huge_text(int(argument))
            pieces = tuple(text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
            return TextReply(pieces=pieces)
        case "error":
            return Failure(status=int(argument), message="the script says so")
        case "flaky":
            times, status = argument.split()
            if failures < int(times):
                return Failure(status=int(status), message="not yet, the script says")
            return TextReply(pieces=("Done at last.",))
        case "silent":
            return Silence()
        case "stall" | "drop":
            return TextReply(pieces=("The beginning, ",), ending=step.word)
        case other:
            raise ValueError(f"there is no step fake:{other}")
