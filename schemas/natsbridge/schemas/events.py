"""The event types: each a pydantic model of ``data``, with its traits declared above it.

To add an event type of your own, write a module like this one and name it in ``BRIDGE_CATALOGUE``::

    from natsbridge.schemas.events import EventData, event

    @event("invoice.paid", resource="invoice_id")
    class InvoicePaid(EventData):
        invoice_id: str
        amount_cents: int
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from natsbridge.schemas.errors import CatalogueError
from natsbridge.schemas.subjects import NO_RESOURCE, Audience, encode_id, is_event_type

_LEAP: Final = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE: Final = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP}-02-29)"
)
TIMESTAMP: Final = (
    rf"^{_DATE}[Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""An RFC 3339 time (§5.6) on a day that the calendar has, as a regular expression."""

Timestamp = Annotated[
    str,
    Field(pattern=TIMESTAMP),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time as RFC 3339 text, which is what clients read; see
:func:`natsbridge.schemas.envelope.timestamp`."""

EVERY_AUDIENCE: Final = frozenset(Audience)


class Overflow(StrEnum):
    """What happens to an event of this type for a client that can't keep up."""

    CONFLATE = "conflate"
    """Only the newest of each (type, resource) is kept."""
    HEAL = "heal"
    """What does not fit is replayed from the stream later; durable types only."""
    DROP = "drop"
    """The oldest goes; it is counted and told."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the system needs to know of an event type beside its model.

    ``resource`` names the field whose value is the event's resource. ``version`` goes into the
    header ``Bridge-Schema``. ``admin_only`` types are outside the default grants of other roles.
    """

    type: str
    resource: str | None
    durable: bool
    overflow: Overflow
    audiences: frozenset[Audience]
    admin_only: bool
    version: int


class EventData(BaseModel):
    """Base of every event's ``data``.

    Types are strict: ``"40"`` is no number. Unknown fields are let through to clients unread, so
    that a service can add one before the bridge knows of it.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    traits: ClassVar[Traits]

    timestamp: Timestamp | None = None

    @property
    def resource_token(self) -> str:
        """The subject token of what this event is about, ``-`` where that is nothing."""
        field = self.traits.resource
        return NO_RESOURCE if field is None else encode_id(getattr(self, field))


_Data = TypeVar("_Data", bound=EventData)


def event(
    event_type: str,
    *,
    resource: str | None = None,
    durable: bool = True,
    overflow: Overflow | None = None,
    audiences: frozenset[Audience] = EVERY_AUDIENCE,
    admin_only: bool = False,
    version: int = 1,
) -> Callable[[type[_Data]], type[_Data]]:
    """Declare an event type: the traits of the model that follows.

    Durable types are stored and acknowledged; the others are sent at most once. Without
    ``overflow``, durable types heal and the others drop. Raises :class:`CatalogueError` for a
    declaration that contradicts itself.
    """
    if not is_event_type(event_type):
        raise CatalogueError(f"{event_type!r} is not <domain>.<action>")
    chosen = overflow or (Overflow.HEAL if durable else Overflow.DROP)
    if chosen is Overflow.HEAL and not durable:
        raise CatalogueError(f"{event_type}: only a durable type can heal")

    def declare(model: type[_Data]) -> type[_Data]:
        fields: dict[str, Any] = model.model_fields
        if resource is not None and resource not in fields:
            raise CatalogueError(f"{event_type}: {model.__name__} has no field {resource!r}")
        if resource is not None and fields[resource].annotation is not str:
            raise CatalogueError(f"{event_type}: the resource {resource!r} must be a str")
        model.traits = Traits(event_type, resource, durable, chosen, audiences, admin_only, version)
        return model

    return declare


Id = Annotated[str, Field(min_length=1, max_length=128)]
"""An id. The SDK also checks that it fits into a subject, see ``subjects.encode_id``."""

Percent = Annotated[int, Field(ge=0, le=100)]


@event("upload.progress", resource="upload_id", durable=False, overflow=Overflow.CONFLATE)
class UploadProgress(EventData):
    """An upload moves on."""

    upload_id: Id
    progress: Percent


@event("upload.completed", resource="upload_id")
class UploadCompleted(EventData):
    """An upload is done; ``result`` is whatever the service has to say of it."""

    upload_id: Id
    result: dict[str, Any]


@event("upload.error", resource="upload_id")
class UploadError(EventData):
    """An upload failed, and why, in words for its user."""

    upload_id: Id
    error: str


@event("upload.cancelled", resource="upload_id")
class UploadCancelled(EventData):
    """An upload was stopped, by its user or by the service."""

    upload_id: Id
    reason: str | None = None


@event("review.created", resource="review_id")
class ReviewCreated(EventData):
    """A review exists; ``review`` holds what it says."""

    review_id: Id
    review: dict[str, Any] = Field(default_factory=dict)


@event("review.updated", resource="review_id")
class ReviewUpdated(EventData):
    """A review changed; ``changes`` maps each changed field to its new value."""

    review_id: Id
    changes: dict[str, Any]


@event("review.deleted", resource="review_id")
class ReviewDeleted(EventData):
    """A review is gone."""

    review_id: Id


@event("system.notification")
class SystemNotification(EventData):
    """Something to tell people."""

    message: str
    level: Annotated[str, Field(min_length=1, max_length=32)] = "info"


@event("system.maintenance")
class SystemMaintenance(EventData):
    """The system will be, is, or was under maintenance."""

    message: str
    status: Literal["scheduled", "started", "completed"] = "scheduled"
    starts_at: Timestamp | None = None
    ends_at: Timestamp | None = None


@event("user.status_changed", resource="user_id", durable=False, overflow=Overflow.CONFLATE)
class UserStatusChanged(EventData):
    """A user came, went, or is away."""

    user_id: Id
    status: str


@event("file.processing", resource="file_id", durable=False, overflow=Overflow.CONFLATE)
class FileProcessing(EventData):
    """A file is being worked on."""

    file_id: Id
    status: str = "processing"
    progress: Percent | None = None


@event("file.ready", resource="file_id")
class FileReady(EventData):
    """Work on a file has ended; ``status`` says how (``ready``, ``failed``, …)."""

    file_id: Id
    status: str = "ready"
    progress: Percent | None = None
