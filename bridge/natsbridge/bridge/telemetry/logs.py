"""Logs: one handler on stderr for everything, one line a record, and no secret in any of them.

Called once at the start. Run uvicorn with ``log_config=None`` and ``access_log=False``, so that it
leaves this in place. Whoever logs must leave tokens out; what looks like one all the same is cut
from the finished line, whichever of message, arguments, extra fields or traceback it came in by.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

from natsbridge.bridge.telemetry.floods import Floods

REDACTED: Final = "[redacted]"

# In the order of their use: what is longer goes first.
_SECRETS: Final = (
    # A JWT, or the first part of one that was cut: {"… in base64url is eyJ… (RFC 7519 §3.1).
    (re.compile(r"eyJ[\w-]{8,}(?:(?:\.|%2[Ee])[\w-]*){0,4}"), REDACTED),
    # RFC 6750 §2.1, and the subprotocol `bearer.<jwt>`.
    (re.compile(r"(?i)\b(bearer)([\s.:=]+)[\w.~+/-]+=*"), rf"\1\2{REDACTED}"),
    # A query or form field, a repr of a dict, a JSON field.
    (
        re.compile(r"""(?i)\b(ticket|token|secret|password)(\\*["']?\s*[=:]\s*\\*["'])[^"'\\]+"""),
        rf"\1\2{REDACTED}",
    ),
    (re.compile(r"(?i)\b(ticket|token|secret|password)=[\w.~%+/-]+=*"), rf"\1={REDACTED}"),
    # A path `/ws/<token>`; the other routes under /ws are named here.
    (
        re.compile(
            r"/ws/(?!(?:stats|connections|broadcast|users|tickets)(?![\w.%~-]))[^\s/?#\"'\\,;)\]}>]+"
        ),
        f"/ws/{REDACTED}",
    ),
)

_WORD: Final = re.compile(r"[\w.:/*@+>-]+")
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_HIDDEN: Final = frozenset({"color_message"})
"""Fields that uvicorn adds for its own formatter."""

_FOREIGN: Final = ("uvicorn", "uvicorn.error", "uvicorn.asgi", "websockets", "nats", "asyncio")


def redact(text: str) -> str:
    """Return the text with everything that looks like a token, ticket or secret cut out."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _Formatter(logging.Formatter):
    """Common parts of both formats. A record that can't be formatted is still told."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(self.line(record))

    def line(self, record: logging.LogRecord) -> str:
        raise NotImplementedError

    def message(self, record: logging.LogRecord) -> str:
        try:
            return record.getMessage()
        except Exception:  # the arguments' own code runs here, and the text is worth keeping
            return f"{record.msg} (arguments do not fit)"

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(record).items()
            if value is not None and name not in _STANDARD and name not in _HIDDEN
        }

    def exception(self, record: logging.LogRecord) -> str:
        parts = []
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        elif record.exc_text:
            parts.append(record.exc_text)
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts)

    def time(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(_Formatter):
    r"""``time LEVEL logger: message name=value …``; line breaks and other controls are escaped.

    So a value that a peer sent can't forge a line of its own. A traceback follows in the same line,
    with its breaks written ``\n``.
    """

    def line(self, record: logging.LogRecord) -> str:
        text = f"{self.time(record)} {record.levelname} {record.name}: {self.message(record)}"
        for name, value in self.fields(record).items():
            text += f" {name}={_field(value)}"
        if trace := self.exception(record):
            text += f" exception: {trace}"
        return "".join(each if each.isprintable() else _escape(each) for each in text)


def _field(value: object) -> str:
    """Return a value so that it ends where it seems to: a plain word, or JSON."""
    if isinstance(value, list | dict):
        with contextlib.suppress(ValueError, RecursionError):
            return json.dumps(value, ensure_ascii=False, default=_shown, skipkeys=True)
    shown = _shown(value)
    if shown and _WORD.fullmatch(shown):
        return shown
    return json.dumps(shown, ensure_ascii=False)


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:  # the value's own code runs here, and the record is worth keeping
        return f"<{type(value).__name__}>"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class JsonFormatter(_Formatter):
    """One JSON object a line: ``time``, ``level``, ``logger``, ``message``, the extra fields.

    ``exception`` is there with a traceback. An extra field does not replace one of these.
    """

    def line(self, record: logging.LogRecord) -> str:
        own = {
            "time": self.time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message(record),
        }
        if trace := self.exception(record):
            own["exception"] = trace
        return json.dumps({**self.fields(record), **own}, default=_shown, skipkeys=True)


class Handler(logging.StreamHandler[Any]):
    """Writes to stderr. A record or a stream that fails costs that record and nothing more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the base's name
        """Do nothing: the base prints the record's arguments as they are, unredacted."""


Say = Callable[[str], None]


def plain(message: str) -> dict[str, str]:
    """Return a line for people as a JSON record has it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": now, "level": "info", "logger": "bridge", "message": message}


def capture() -> None:
    """Log what Python itself would write on stderr: warnings, and errors that nobody caught."""
    logging.captureWarnings(True)
    log = logging.getLogger("natsbridge")

    def uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        log.critical("the process ends after an error", exc_info=(kind, error, trace))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            log.error("a thread ended after an error", exc_info=args.exc_value)

    def unraisable(args: Any) -> None:
        log.error(
            "%s: %r", args.err_msg or "an error was ignored", args.object, exc_info=args.exc_value
        )

    sys.excepthook = uncaught
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable


class _NoPaths(logging.Filter):
    """Keeps back uvicorn's lines about requests, whose paths may hold tokens."""

    def filter(self, record: logging.LogRecord) -> bool:
        return '"WebSocket %s"' not in str(record.msg)


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["text", "json"] = "text",  # noqa: A002  # as the setting is called
    rate: int = 10,
) -> None:
    """Send all logs to stderr from this level on. May be called again: the last call counts.

    ``rate`` is how often a second one line may be written.

    uvicorn's access log is off. What uvicorn and ``websockets`` would say of a request's path or
    headers, the latter at the level ``debug``, is never said.
    """
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each, Handler)]:
        root.removeHandler(earlier)
    handler = Handler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handler.addFilter(Floods(rate))
    root.addHandler(handler)
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(threshold)

    for name in _FOREIGN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # Explicit, since uvicorn asks for the level of its own logger; `debug` prints headers.
        logger.setLevel(max(threshold, logging.INFO))
    for name in ("websockets.server", "websockets.client"):
        logging.getLogger(name).setLevel(max(threshold, logging.INFO))
    error = logging.getLogger("uvicorn.error")
    for earlier_filter in [each for each in error.filters if isinstance(each, _NoPaths)]:
        error.removeFilter(earlier_filter)
    error.addFilter(_NoPaths())

    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    access.disabled = True
