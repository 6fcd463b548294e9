"""The exceptions of this package.

::

    PublishError
    ├── CallerError             you erred; nothing was sent, and trying again changes nothing
    │   ├── InvalidEvent            ``field`` names what is wrong with the event, ``reason`` how
    │   ├── PublisherClosed         the publisher is not open yet, or no longer
    │   └── WrongEventLoop          it was opened in another event loop, or before a fork
    ├── BrokerError             the broker erred; ``event`` is what was to be sent
    │   ├── BrokerUnavailable       no connection in time; nothing was sent
    │   ├── StreamMissing           no stream stores this type, or none at all; nothing was sent
    │   ├── StreamRefused           the stream said no: ``code``, ``description``
    │   ├── NotPermitted            this connection may not publish there
    │   ├── NotAcknowledged         sent, and no answer in time: it may be stored, or not
    │   └── SomeNotPublished        several users, and some failed: ``receipts``, ``failures``
    └── SpoolError              the spool on disk erred; ``events`` are what was to be kept
        ├── SpoolFull               over its cap; nothing was kept: publish less, or later
        ├── SpoolLocked             another process has the file
        └── SpoolFailed             the disk, or the file, is not in order

A :class:`BrokerError` is worth another try: ``await publisher.send(error.event)`` sends the same
event with the same id, so that the stream stores it once if that is within its window of
duplicates, two minutes. To keep it longer, store what :class:`publishers.OutgoingEvent` holds.

Settings that can't be used raise :class:`natsbridge.schemas.bus.SettingsError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from natsbridge.publishers.outgoing import OutgoingEvent, Receipt


class PublishError(Exception):
    """Root of what publishing raises."""


class CallerError(PublishError):
    """The caller erred. Nothing was sent."""


class InvalidEvent(CallerError, ValueError):
    """An event that the bridge would refuse.

    ``field`` is the dotted path of what is wrong: ``data.progress``, ``to``, ``id``; empty where no
    field is to blame. ``reason`` is one of :class:`natsbridge.schemas.codes.RejectReason`.
    """

    def __init__(self, reason: str, detail: str, field: str = "") -> None:
        super().__init__(f"{field}: {detail}" if field else detail)
        self.reason = reason
        self.detail = detail
        self.field = field


class PublisherClosed(CallerError):
    """The publisher is used outside its ``async with`` block."""

    def __init__(self) -> None:
        super().__init__("the publisher is not open")


class WrongEventLoop(CallerError):
    """The publisher was opened in another event loop, or in the process that forked this one.

    Nothing of it works here: its socket, its tasks and its answers belong to where it was opened.
    """


class BrokerError(PublishError):
    """The broker erred. ``event`` is None when it was about the connection alone."""

    def __init__(self, detail: str, event: OutgoingEvent | None = None) -> None:
        super().__init__(f"{event}: {detail}" if event else detail)
        self.detail = detail
        self.event = event


class BrokerUnavailable(BrokerError):
    """There was no connection to NATS within the time allowed. Nothing was sent."""


class StreamMissing(BrokerError):
    """Nothing listens where this event goes: no JetStream, no stream, or one that does not take the
    type (``natsbridge stream apply`` adds it). Nothing was sent.
    """


class StreamRefused(BrokerError):
    """The stream answered, and did not store the event: it is full, or over a limit of its own.

    ``code`` is JetStream's ``err_code``.
    """

    def __init__(self, code: int, description: str, event: OutgoingEvent | None = None) -> None:
        super().__init__(f"the stream refused: {description} ({code})", event)
        self.code = code
        self.description = description


class NotPermitted(BrokerError):
    """The account of this connection may not publish to the event's subject."""


class NotAcknowledged(BrokerError):
    """The event was sent and no acknowledgement came in time. It may be stored, or not."""


class SomeNotPublished(BrokerError):
    """Of an event for several users some were not published.

    ``receipts`` are those of the others; each of ``failures`` carries its own ``event``.
    """

    def __init__(self, receipts: Sequence[Receipt], failures: Sequence[BrokerError]) -> None:
        count = len(receipts) + len(failures)
        super().__init__(f"{len(failures)} of {count} were not published; first: {failures[0]}")
        self.receipts = list(receipts)
        self.failures = list(failures)


class SpoolError(PublishError):
    """The spool on disk erred. ``events`` is empty when it was about the file alone."""

    def __init__(self, detail: str, events: Sequence[OutgoingEvent] = ()) -> None:
        what = "".join(f"{event}: " for event in events[:1])
        super().__init__(f"{what}{detail}")
        self.detail = detail
        self.events = list(events)


class SpoolFull(SpoolError):
    """The spool has no room for these events. None of them was kept."""


class SpoolLocked(SpoolError):
    """Another process, or another publisher of this one, has the spool's file."""


class SpoolFailed(SpoolError):
    """The spool's file can't be read or written. What was under way may be in it, or not."""
