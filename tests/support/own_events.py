"""Event types of a user's own, as a module that ``BRIDGE_CATALOGUE`` names."""

from __future__ import annotations

from natsbridge.schemas.events import EventData, event
from natsbridge.schemas.subjects import Audience


@event("invoice.paid", resource="invoice_id")
class InvoicePaid(EventData):
    """An invoice was paid."""

    invoice_id: str
    amount_cents: int


@event("invoice.draft", durable=False, audiences=frozenset({Audience.USER}))
class InvoiceDraft(EventData):
    """Somebody writes an invoice, which is nobody else's business."""

    text: str


@event("audit.recorded", admin_only=True)
class AuditRecorded(EventData):
    """Something that only admins may see."""

    what: str
