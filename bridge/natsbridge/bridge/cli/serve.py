"""``natsbridge serve``: the bridge in this process, until it is told to stop."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Mapping

from natsbridge.bridge.cli.check import strangers, unreadable
from natsbridge.bridge.cli.terminal import USAGE, CommandError, say
from natsbridge.bridge.errors import StartError
from natsbridge.bridge.settings import BridgeSettings
from natsbridge.bridge.telemetry import logs
from natsbridge.schemas.errors import SchemaError

READY = "bridge ready on "
"""What the line on standard output says once clients can connect; the base URL follows."""

log = logging.getLogger("natsbridge")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--host", help="address to listen on (BRIDGE_HOST)")
    parser.add_argument("--port", help="port to listen on, 0 for a free one (BRIDGE_PORT)")


def main(options: argparse.Namespace) -> int:
    """Run the command with its parsed arguments."""
    return run(options.host, options.port)


def run(host: str | None, port: str | None) -> int:
    """Serve, and return after the graceful stop."""
    arguments = {"BRIDGE_HOST": host, "BRIDGE_PORT": port}
    environment = {**os.environ, **{name: value for name, value in arguments.items() if value}}
    if environment.get("BRIDGE_LOG_FORMAT", "").strip().lower() != "json":
        return _serve(environment, say)
    # Whoever reads JSON reads nothing else: what stops the start is a record too.
    logs.configure("info", "json")
    try:
        return _serve(environment, lambda line: say(json.dumps(logs.plain(line))))
    except CommandError as error:
        log.error("%s", error)
        return error.code
    except (SchemaError, StartError) as error:
        log.error("%s", error)
        return USAGE


def _serve(environment: Mapping[str, str], ready: logs.Say) -> int:
    if not environment.get("BRIDGE_NATS_URL"):
        raise CommandError(
            "BRIDGE_NATS_URL is not set (`natsbridge dev` brings a broker of its own)"
        )
    settings = BridgeSettings.from_environment(environment)
    if missing := "; ".join(unreadable(settings.bus)):
        raise CommandError(missing)
    server = settings.server
    logs.configure(server.log_level, server.log_format, server.log_rate)
    logs.capture()
    for stranger in strangers(environment):
        log.warning("%s", stranger)

    # After the log is set up, and only when there is something to serve.
    from natsbridge.bridge.runtime import process

    process.run(settings, on_ready=lambda url: ready(READY + url))
    return 0
