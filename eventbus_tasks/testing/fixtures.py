"""Fixtures for pytest.

Switch them on with ``pytest_plugins = ["eventbus_tasks.testing.fixtures"]`` in the
``conftest.py`` at the root of your tests; ``-p eventbus_tasks.testing.fixtures`` does the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventbus_tasks.testing import leaks
from eventbus_tasks.testing.puppet import Puppet

__all__ = ["leak_guard", "puppet"]


@pytest.fixture
def leak_guard() -> Iterator[leaks.Belongings]:
    """Fail a test that leaves a child, descriptor or thread behind.

    For every test of a module: ``pytestmark = pytest.mark.usefixtures("leak_guard")``.
    """
    with leaks.leak_guard() as before:
        yield before


@pytest.fixture
def puppet(leak_guard: leaks.Belongings) -> Iterator[Puppet]:
    """Return a real process that does one thing at a time, when told; it is ended afterwards."""
    with Puppet() as made:
        yield made
