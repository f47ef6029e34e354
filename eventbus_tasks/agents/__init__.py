"""For authors of plugins that drive an agent: the parts that every such plugin needs.

- `JsonLinesInterpreter`: base of interpreters of agents that write one JSON object in each line.
- `AgentOptions`: base of the options of one request, read without trusting anything.
- `agent_command`; `find_program`, `child_environment`, `prompt_bytes`: what a command is made of.
- `count_in`, `list_in`, `object_in`, `price_in`, `text_in`: values of foreign JSON, where a wrong
  type is an absent value; `one_line`, `input_summary`: text that is safe and short.
- `check_program`, `started_program`, `KnownBug`, `AgentHealth`: the answer to ``ebt_check_agent``.
- `Totals`: differences from counters that an agent only tells as totals.

Nothing here knows a certain agent. `eventbus_tasks.testing` has the contracts for such plugins.
"""

from __future__ import annotations

from eventbus_tasks.agents.building import (
    agent_command,
    child_environment,
    find_program,
    prompt_bytes,
)
from eventbus_tasks.agents.health import (
    AgentHealth,
    KnownBug,
    check_program,
    parse_version,
    started_program,
)
from eventbus_tasks.agents.interpreting import JsonLinesInterpreter, unknown_event
from eventbus_tasks.agents.options import AgentOptions
from eventbus_tasks.agents.reading import (
    count_in,
    input_summary,
    list_in,
    object_in,
    one_line,
    parse_object,
    price_in,
    text_in,
)
from eventbus_tasks.agents.totals import Totals

__all__ = [
    "AgentHealth",
    "AgentOptions",
    "JsonLinesInterpreter",
    "KnownBug",
    "Totals",
    "agent_command",
    "check_program",
    "child_environment",
    "count_in",
    "find_program",
    "input_summary",
    "list_in",
    "object_in",
    "one_line",
    "parse_object",
    "parse_version",
    "price_in",
    "prompt_bytes",
    "started_program",
    "text_in",
    "unknown_event",
]
