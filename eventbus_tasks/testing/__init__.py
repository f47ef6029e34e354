"""Public kit for the tests of applications and plugins.

- `Puppet`: a real process that a test drives step by step.
- `Identity`, `living`, `wait_until_gone`: processes that cannot be mistaken for others.
- `leak_guard`: no child, descriptor or thread is left behind.
- `eventbus_tasks.testing.strategies`: values for hypothesis (which must be installed).
- `eventbus_tasks.testing.conformance`: what every plugin of a kind must keep, as test classes.
- `eventbus_tasks.testing.fixtures`: fixtures for pytest.
- `eventbus_tasks.testing.agents`: a model API on loopback, for tests with real agents.

What this module itself offers needs neither pytest nor hypothesis; `conformance` and `fixtures`
need pytest.
"""

from __future__ import annotations

from eventbus_tasks.testing.leaks import Belongings, LeakError, leak_guard
from eventbus_tasks.testing.processes import Identity, living, wait_until_gone
from eventbus_tasks.testing.puppet import Puppet, PuppetGoneError

__all__ = [
    "Belongings",
    "Identity",
    "LeakError",
    "Puppet",
    "PuppetGoneError",
    "leak_guard",
    "living",
    "wait_until_gone",
]
