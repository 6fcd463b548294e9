"""``bridge serve``: the bridge in this process, until it is told to stop."""

from __future__ import annotations

import os

from bridge.commands.terminal import CommandError, say
from bridge.settings import BridgeSettings
from bridge.telemetry import logs

READY = "bridge ready on "
"""What the line on standard output begins with once clients can connect; the base URL follows."""


def run(host: str | None, port: str | None) -> int:
    """Serve, and return after the graceful stop."""
    arguments = {"BRIDGE_HOST": host, "BRIDGE_PORT": port}
    environment = {**os.environ, **{name: value for name, value in arguments.items() if value}}
    if not environment.get("BRIDGE_NATS_URL"):
        raise CommandError("BRIDGE_NATS_URL is not set (`bridge dev` brings a broker of its own)")
    settings = BridgeSettings.from_environment(environment)
    logs.configure(settings.server.log_level, settings.server.log_format)

    from bridge import process  # after the log is set up, and only when there is something to serve

    process.run(settings, on_ready=lambda url: say(READY + url))
    return 0
