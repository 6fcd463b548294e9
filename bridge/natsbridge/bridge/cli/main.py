"""``bridge``: the command line. Reads arguments, calls one command, turns errors into exit codes.

0 done, 1 failed on the way, 2 the caller has something to mend, 130 interrupted. What a user can
get wrong is told in one line on standard error, never as a traceback.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from natsbridge.bridge.cli.terminal import USAGE, CommandError, OutputGone, note
from natsbridge.bridge.errors import StartError
from natsbridge.schemas.errors import SchemaError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="natsbridge",
        description="A bridge between NATS and WebSocket clients. Settings are environment "
        "variables; `natsbridge check` shows them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the bridge (needs BRIDGE_NATS_URL)")
    serve.add_argument("--host", help="address to listen on (BRIDGE_HOST)")
    serve.add_argument("--port", help="port to listen on, 0 for a free one (BRIDGE_PORT)")
    serve.set_defaults(command=_serve)

    dev = commands.add_parser("dev", help="run everything here: broker, bridge, sample services")
    dev.add_argument("--port", help="port of the bridge, 0 for a free one (BRIDGE_PORT, 8000)")
    dev.add_argument(
        "--nats-port",
        type=_port,
        default=4222,
        metavar="PORT",
        help="port of the broker, 0 for a free one (default: %(default)s)",
    )
    dev.add_argument("--no-samples", action="store_true", help="leave the sample services out")
    dev.add_argument("--data", metavar="DIR", help="keep what the broker stores in this folder")
    dev.add_argument("-v", "--verbose", action="store_true", help="show what every process says")
    dev.set_defaults(command=_dev)

    token = commands.add_parser("token", help="print a token signed with BRIDGE_JWT_SECRET")
    token.add_argument("--user", required=True, metavar="ID", help="whose token it is")
    token.add_argument("--role", metavar="ROLE", help="`admin` for the admin endpoints")
    token.add_argument(
        "--grant", action="append", metavar="PATTERN", help="may subscribe to this (repeatable)"
    )
    token.add_argument(
        "--deny", action="append", metavar="PATTERN", help="but not to this (repeatable)"
    )
    token.add_argument("--ttl", default="1h", metavar="TIME", help="90s, 30m, 1h (default), 7d")
    token.add_argument("--email", metavar="ADDRESS")
    token.add_argument("--name", metavar="NAME")
    token.add_argument("--demo", action="store_true", help="sign as `natsbridge dev` does")
    token.set_defaults(command=_token)

    tail = commands.add_parser("tail", help="show live events")
    tail.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="what to subscribe to: upload.*, review.updated.77, '>'; without any, what is sent "
        "to the user and to all",
    )
    tail.add_argument(
        "--url", help="default: ws://127.0.0.1:8000/ws, with BRIDGE_HOST and BRIDGE_PORT if set"
    )
    tail.add_argument("--token", help="default: BRIDGE_TOKEN, else one is made for --user")
    tail.add_argument("--user", default="42", metavar="ID", help="default: %(default)s")
    tail.add_argument("--count", type=_positive, metavar="N", help="end after this many events")
    tail.add_argument("--json", action="store_true", help="one event a line as it was received")
    tail.add_argument("--no-color", action="store_true", help="as NO_COLOR=1 does")
    tail.set_defaults(command=_tail)

    publish = commands.add_parser("publish", help="publish one event to NATS")
    publish.add_argument("type", metavar="TYPE", help="upload.progress, …")
    publish.add_argument("data", metavar="JSON", help="the event's data, `-` to read it from stdin")
    audience = publish.add_mutually_exclusive_group(required=True)
    audience.add_argument("--user", nargs="+", metavar="ID", help="to every connection of them")
    audience.add_argument("--topic", action="store_true", help="to whoever subscribed to it")
    audience.add_argument("--all", action="store_true", help="to every connection")
    publish.set_defaults(command=_publish)

    check = commands.add_parser("check", help="show the settings, and what is unsafe in them")
    check.add_argument("--strict", action="store_true", help="end with 1 when there are warnings")
    check.set_defaults(command=_check)

    stream = commands.add_parser(
        "stream", help="show how the stream differs from what is needed, or mend it"
    )
    stream.add_argument("action", choices=("plan", "apply"), help="show it, or do it")
    stream.add_argument("--json", action="store_true", help="as one JSON object")
    stream.set_defaults(command=_stream)

    settings = commands.add_parser("settings", help="list every setting and its meaning")
    settings.add_argument("--markdown", action="store_true", help="as the README's table")
    settings.add_argument("--write", metavar="FILE", help="renew the table in this file")
    settings.set_defaults(command=_settings)
    return parser


# Each command is imported when it runs, so that `natsbridge token` does not wait for a web
# framework.


def _serve(options: argparse.Namespace) -> int:
    from natsbridge.bridge.cli import serve

    return serve.run(options.host, options.port)


def _dev(options: argparse.Namespace) -> int:
    from natsbridge.bridge.cli import dev

    return dev.run(
        port=options.port,
        nats_port=options.nats_port,
        samples=not options.no_samples,
        data=options.data,
        verbose=options.verbose,
    )


def _token(options: argparse.Namespace) -> int:
    from natsbridge.bridge.cli import tokens

    return tokens.run(
        user=options.user,
        role=options.role,
        grant=options.grant or [],
        deny=options.deny or [],
        ttl=options.ttl,
        email=options.email,
        name=options.name,
        demo=options.demo,
    )


def _tail(options: argparse.Namespace) -> int:
    from natsbridge.bridge.cli import tail

    return tail.run(
        options.patterns,
        url=options.url,
        token=options.token,
        user=options.user,
        count=options.count,
        raw=options.json,
        colour=not options.no_color,
    )


def _publish(options: argparse.Namespace) -> int:
    from natsbridge.bridge.cli import publish

    return publish.run(
        options.type, options.data, users=options.user or [], everybody=bool(options.all)
    )


def _check(options: argparse.Namespace) -> int:
    from natsbridge.bridge.cli import check

    return check.run(strict=options.strict)


def _stream(options: argparse.Namespace) -> int:
    from natsbridge.bridge.cli import stream

    return stream.run(options.action, as_json=options.json)


def _settings(options: argparse.Namespace) -> int:
    from natsbridge.bridge.cli import settings_table

    return settings_table.run(as_markdown=options.markdown, write=options.write)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError("must be 0 to 65535")
    return number


def _version() -> str:
    try:
        return version("natsbridge")
    except PackageNotFoundError:
        return "(not installed)"
