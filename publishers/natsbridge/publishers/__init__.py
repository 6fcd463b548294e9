"""The SDK with which services publish events and answer commands.

A publisher in ten lines::

    import asyncio
    from natsbridge.publishers import EventPublisher, UploadEvents

    async def main() -> None:
        async with EventPublisher("nats://127.0.0.1:4222", source="upload-service") as publisher:
            uploads = UploadEvents(publisher)
            await uploads.progress("u1", 40, to="42")
            [receipt] = await uploads.completed("u1", {"size": 1024}, to="42")
            print(receipt.sequence)

    asyncio.run(main())

An event goes to a user (``"42"``), several (``["42", "43"]``), :data:`SUBSCRIBERS`, or
:data:`EVERYBODY`. It is validated before anything is sent; :mod:`natsbridge.publishers.errors`
draws what can
be raised. With ``BRIDGE_SPOOL`` events that must not be lost wait on the disk for the broker:
:mod:`natsbridge.publishers.spool`.
"""

from natsbridge.publishers.commands import Command, Commands, Refused
from natsbridge.publishers.errors import (
    BrokerError,
    BrokerUnavailable,
    CallerError,
    InvalidEvent,
    NotAcknowledged,
    NotPermitted,
    PublisherClosed,
    PublishError,
    SomeNotPublished,
    SpoolError,
    SpoolFailed,
    SpoolFull,
    SpoolLocked,
    StreamMissing,
    StreamRefused,
    WrongEventLoop,
)
from natsbridge.publishers.files import FileEvents
from natsbridge.publishers.outgoing import EVERYBODY, SUBSCRIBERS, OutgoingEvent, Receipt, To
from natsbridge.publishers.publisher import EventPublisher
from natsbridge.publishers.review import ReviewEvents
from natsbridge.publishers.settings import PublisherSettings
from natsbridge.publishers.spool import Spool, SpoolState
from natsbridge.publishers.spool_file import RefusedEvent
from natsbridge.publishers.system import SystemEvents
from natsbridge.publishers.upload import UploadEvents

__all__ = [
    "EVERYBODY",
    "SUBSCRIBERS",
    "BrokerError",
    "BrokerUnavailable",
    "CallerError",
    "Command",
    "Commands",
    "EventPublisher",
    "FileEvents",
    "InvalidEvent",
    "NotAcknowledged",
    "NotPermitted",
    "OutgoingEvent",
    "PublishError",
    "PublisherClosed",
    "PublisherSettings",
    "Receipt",
    "Refused",
    "RefusedEvent",
    "ReviewEvents",
    "SomeNotPublished",
    "Spool",
    "SpoolError",
    "SpoolFailed",
    "SpoolFull",
    "SpoolLocked",
    "SpoolState",
    "StreamMissing",
    "StreamRefused",
    "SystemEvents",
    "To",
    "UploadEvents",
    "WrongEventLoop",
]
