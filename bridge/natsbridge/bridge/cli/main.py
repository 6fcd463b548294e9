"""``bridge``: the command line. Reads arguments, calls one command, turns errors into exit codes.

0 done, 1 failed on the way, 2 the caller has something to mend, 130 interrupted. What a user can
get wrong is told in one line on standard error, never as a traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from natsbridge.bridge.cli.terminal import USAGE, CommandError, OutputGone, note
from natsbridge.bridge.errors import StartError
from natsbridge.schemas.errors import SchemaError

INTERRUPTED = 130

COMMANDS: Final = {
    "serve": "run the bridge (needs BRIDGE_NATS_URL)",
    "dev": "run everything here: broker, bridge, sample services",
    "token": "print a token signed with BRIDGE_JWT_SECRET",
    "tail": "show live events",
    "publish": "publish one event to NATS",
    "check": "show the settings, and what is unsafe in them",
    "stream": "show how the stream differs from what is needed, or mend it",
    "settings": "list every setting and its meaning",
}
"""Each command is the module of its name: ``arguments(parser)`` declares, ``main(options)`` runs.

Only the module that is asked for is imported, so that ``token`` does not wait for a web framework.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        options = _parser(given).parse_args(given)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except CommandError as error:
        note(f"natsbridge: {error}")
        return error.code
    except (SchemaError, StartError) as error:
        note(f"natsbridge: {error}")
        return USAGE
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "natsbridge":
            raise
        note(f"natsbridge: {error.name} is missing: pip install 'natsbridge[server]'")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputGone:
        return 0  # whoever read our output has seen enough


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="natsbridge",
        description="A bridge between NATS and WebSocket clients. Settings are environment "
        "variables; `natsbridge check` shows them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, described in COMMANDS.items():
        command = commands.add_parser(name, help=described)
        if name in given:
            module = import_module(f"natsbridge.bridge.cli.{name}")
            module.arguments(command)
            command.set_defaults(command=module.main)
    return parser


def _version() -> str:
    try:
        return version("natsbridge")
    except PackageNotFoundError:
        return "(not installed)"
