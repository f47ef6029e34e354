"""The plugins, for commands that need them."""

from __future__ import annotations

from eventbus_tasks import PluginHost, PluginReport, Settings

__all__ = ["find_report", "load_host"]


def load_host() -> PluginHost:
    """Return the loaded plugins. One that is broken is in the reports, and keeps nobody away.

    Raises:
        SettingsError: The user's settings are wrong.
    """
    host = PluginHost(Settings.load())
    host.load_builtins()
    host.load_installed()
    return host


def find_report(host: PluginHost, distribution: str) -> PluginReport | None:
    """Return what is known about the plugin of a distribution, if it is installed."""
    for report in host.reports:
        if report.distribution.replace("_", "-").lower() == distribution:
            return report
    return None
