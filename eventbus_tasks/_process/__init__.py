"""Processes: the warden, the guardians, output capture and project locks.

This package knows no plugin, no signal and no event class. Everything in it but ``handle`` and
``lock`` also runs inside the warden, which starts without importing `eventbus_tasks` itself.
"""
