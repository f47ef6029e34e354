"""Counting tokens and money: Claude tells totals and repeats itself, events tell differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from eventbus_tasks import AgentUsage
from eventbus_tasks.agents import count_in, object_in, price_in, text_in

__all__ = ["UsageCounter"]

# Messages whose usage is remembered. Lines of one message follow each other closely; sub-agents
# that run side by side mix theirs.
_REMEMBERED: Final = 256

# What was sent to the model includes what it found in its cache, or put there.
_SENT: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_SENT_BY_MODEL: Final = ("inputTokens", "cacheCreationInputTokens", "cacheReadInputTokens")


class _Tokens(NamedTuple):
    sent: int = 0
    produced: int = 0

    def minus(self, other: _Tokens) -> _Tokens:
        # Never below zero: what has been told cannot be taken back.
        return _Tokens(max(0, self.sent - other.sent), max(0, self.produced - other.produced))

    def plus(self, other: _Tokens) -> _Tokens:
        return _Tokens(self.sent + other.sent, self.produced + other.produced)


class UsageCounter:
    """Turns what Claude says about its usage into what is new since the last time.

    Each line of a message repeats the usage of the whole message, so it is counted by message.
    The total of a result is exact and wins: it adds whatever the messages have not said.

    Args:
        resumed: The run goes on with an earlier session, whose usage is part of Claude's totals.
    """

    def __init__(self, *, resumed: bool = False) -> None:
        self._by_message: dict[str, _Tokens] = {}
        self._told = _Tokens()  # in all
        self._told_in_turn = _Tokens()  # since the last result
        self._resumed = resumed
        self._cost = None if resumed else 0.0  # the last total; unknown before a session's first

    def of_message(self, message: Mapping[str, Any]) -> AgentUsage | None:
        """Return what a line of a message adds, or ``None`` for nothing."""
        message_id = text_in(message, "id")
        tokens = _tokens(object_in(message, "usage"), _SENT, "output_tokens")
        if not message_id or tokens is None:
            return None
        known = self._by_message.pop(message_id, _Tokens())
        # The number of tokens that were produced grows from line to line.
        new = tokens.minus(known)
        self._by_message[message_id] = known.plus(new)
        if len(self._by_message) > _REMEMBERED:
            del self._by_message[next(iter(self._by_message))]
        self._tell(new)
        if not any(new):
            return None
        return AgentUsage(input_tokens=new.sent, output_tokens=new.produced)

    def of_result(self, result: Mapping[str, Any]) -> AgentUsage | None:
        """Return what a result adds to all that was told before, or ``None`` for nothing."""
        new = self._new_tokens(result)
        if new is not None:
            self._tell(new)
        self._told_in_turn = _Tokens()
        cost = self._new_cost(result)
        if cost is None and not any(new or ()):
            return None
        return AgentUsage(
            input_tokens=None if new is None else new.sent,
            output_tokens=None if new is None else new.produced,
            cost_usd=cost,
        )

    def _new_tokens(self, result: Mapping[str, Any]) -> _Tokens | None:
        # By model, sub-agents and side models included.
        recent = _by_model(result, "model_usage_since_last_result")
        if recent is not None:
            return recent.minus(self._told_in_turn)
        # Versions without that: the totals are those of the session.
        total = None if self._resumed else _by_model(result, "modelUsage")
        if total is not None:
            return total.minus(self._told)
        turn = _tokens(object_in(result, "usage"), _SENT, "output_tokens")
        return None if turn is None else turn.minus(self._told_in_turn)

    def _new_cost(self, result: Mapping[str, Any]) -> float | None:
        total, last = price_in(result, "total_cost_usd"), self._cost
        if total is not None:
            self._cost = max(total, last or 0.0)
        models = object_in(result, "model_usage_since_last_result")
        prices = [price_in(object_in(models, model), "costUSD") for model in models]
        known = [price for price in prices if price is not None]
        if known and len(known) == len(prices):
            return sum(known)
        if total is None or last is None:
            return None
        return max(0.0, total - last)

    def _tell(self, new: _Tokens) -> None:
        self._told = self._told.plus(new)
        self._told_in_turn = self._told_in_turn.plus(new)


def _by_model(result: Mapping[str, Any], key: str) -> _Tokens | None:
    models = object_in(result, key)
    found = [_tokens(object_in(models, name), _SENT_BY_MODEL, "outputTokens") for name in models]
    total = None
    for tokens in found:
        if tokens is not None:
            total = tokens.plus(total or _Tokens())
    return total


def _tokens(usage: Mapping[str, Any], sent: Iterable[str], produced: str) -> _Tokens | None:
    counts = [count_in(usage, key) for key in sent]
    output = count_in(usage, produced)
    if output is None and all(count is None for count in counts):
        return None
    return _Tokens(sum(count or 0 for count in counts), output or 0)
