"""A task that is none: for those who go through the start of one before there is any."""

from __future__ import annotations

import os
from typing import Final

from eventbus_tasks._process import launch, wire
from eventbus_tasks._process.ladder import Policy
from eventbus_tasks._process.launch import LaunchRequest

__all__ = ["FILE", "PACKET", "REQUEST"]

_SPEC: Final = wire.LaunchSpec(
    uid="sample", argv=["sh", "-c", ""], cwd="/", env={"PATH": os.defpath, "HOME": "/"}
)

REQUEST: Final = LaunchRequest(
    task=0,
    uid="sample",
    policy=Policy(),
    capture="pipe",
    pty_size=(80, 24),
    nofile=None,
    rendezvous=None,
    pipes=("stdout",),
    image=len(_SPEC.encode()) + 1,
    descriptors=(),
)
"""What a host asks for."""

PACKET: Final = launch.encode(REQUEST)
"""The same, as it travels."""

FILE: Final = b"\0".join((_SPEC.encode(), launch.image_of(_SPEC)))
"""What is in the file of the specification."""
