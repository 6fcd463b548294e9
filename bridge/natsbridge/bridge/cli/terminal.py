"""What the commands share: plain lines, colour where a terminal takes it, one way to give up.

Standard output carries what a command is for (events, a token, a table), standard error what is
said about it, so that a pipe gets the first alone.
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from typing import Final, TextIO

from natsbridge.bridge.errors import BridgeError

USAGE: Final = 2
"""Exit code for what the caller got wrong: arguments, settings, a port that is taken."""

FAILED: Final = 1
"""Exit code for what went wrong while doing it."""

_COLOURS: Final = {
    "dim": "2",
    "bold": "1",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


class CommandError(BridgeError):
    """The command ends here, with one plain line and this exit code."""

    def __init__(self, line: str, code: int = USAGE) -> None:
        super().__init__(line)
        self.code = code


class OutputGone(BridgeError):
    """Nobody reads what we write any more: a pipe was closed (`natsbridge tail | head`), a
    terminal.

    Not an OSError, lest it be taken for a network's.
    """


def say(line: str, stream: TextIO | None = None) -> None:
    """Write a line to standard output, or to the stream given, at once.

    Raises :class:`OutputGone`.
    """
    stream = sys.stdout if stream is None else stream
    try:
        stream.write(line + "\n")
        stream.flush()
    except OSError as error:
        # What is still in the buffer must go nowhere, or Python complains once more at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise OutputGone from error


def note(line: str) -> None:
    """Write a line to standard error."""
    say(line, sys.stderr)


class Paint:
    """Colours text for one stream, or leaves it as it is."""

    def __init__(self, stream: TextIO, *, wanted: bool = True) -> None:
        # https://no-color.org: set and not empty turns colour off, whatever its value.
        self._on: Final = (
            wanted
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
            and stream.isatty()
        )

    def __call__(self, text: str, colour: str) -> str:
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self._on else text


def printable(text: str) -> str:
    """Return the text with all that a terminal would obey, and not show, written as ``\\uXXXX``."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode-escape").decode() for each in text
    )


def reason(error: Exception) -> str:
    """Return in a few words why something over the network did not work."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        told = error.verify_message or "verification failed"
        return f"its certificate is not trusted: {told} (SSL_CERT_FILE names CAs that are)"
    if isinstance(error, ssl.SSLError):
        return f"no TLS connection: {error.reason or error}"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()  # asyncio puts the address in place of these words
    return str(error) or type(error).__name__


def own_command() -> str:
    """Return how this program is called from the present folder: ``.venv/bin/natsbridge``."""
    called = Path(sys.argv[0])
    if called.name != "natsbridge":
        return f"{_from_here(Path(sys.executable))} -m natsbridge.bridge.cli"
    return _from_here(called)


def _from_here(path: Path) -> str:
    # Not resolved: a virtual environment's links must stay what they are.
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
