"""One attempt to store an event in the stream, and what its answer means."""

from __future__ import annotations

import json
from typing import Final

from natsbridge.publishers.connection import Connection, NoResponders
from natsbridge.publishers.errors import (
    BrokerError,
    BrokerUnavailable,
    NotAcknowledged,
    NotPermitted,
    StreamMissing,
    StreamRefused,
)
from natsbridge.publishers.outgoing import OutgoingEvent, Receipt

PASSING: Final = frozenset({409, 429})
"""Refusals below 500 that may end by themselves: the same id is being stored just now, and the
stream has too much to do. From 500 on it is the server's own state: no leader, no room."""
NO_ROOM: Final = 10002
"""``err_code`` of an account that is out of storage, which comes with 400 (nats-server's
``JSAccountResourcesExceededErr``)."""


TOO_LARGE: Final = 10054
"""``err_code`` of a message over the stream's ``max_msg_size``."""


class NotNow(Exception):
    """Not acknowledged, for a reason that may pass: ``failure``.

    ``doubtful``: it may be stored all the same.
    """

    def __init__(self, failure: BrokerError, *, doubtful: bool) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.doubtful = doubtful


async def store(
    connection: Connection, event: OutgoingEvent, deadline: float, attempts: int = 1
) -> Receipt:
    """Send the event once, and return the stream's acknowledgement.

    Raises :class:`NotNow`, and for what another attempt would not change :class:`StreamRefused`,
    :class:`NotPermitted`, :class:`NotAcknowledged` and :class:`InvalidEvent`. ``deadline`` is a
    time of the loop's clock.
    """
    try:
        answer = await connection.request(event.subject, event.payload, event.headers, deadline)
    except NoResponders:
        detail = (
            f"no stream stores {event.subject}: there is none, or it does not take this type "
            "(`natsbridge stream apply` with the BRIDGE_CATALOGUE that has it adds it)"
        )
        raise NotNow(StreamMissing(detail, event), doubtful=False) from None
    except TimeoutError:
        raise NotNow(NotAcknowledged("no acknowledgement", event), doubtful=True) from None
    except BrokerUnavailable as error:
        raise NotNow(BrokerUnavailable(error.detail, event), doubtful=False) from None
    except NotPermitted as error:
        raise NotPermitted(error.detail, event) from None
    return acknowledgement(event, answer.data, attempts)


def acknowledgement(event: OutgoingEvent, answer: bytes, attempts: int = 1) -> Receipt:
    """Read a stream's acknowledgement (``{"stream","seq","duplicate"?}``) or its refusal."""
    try:
        told = json.loads(answer)
        if refusal := told.get("error"):
            description = refusal["description"]
            if refusal["err_code"] == TOO_LARGE:
                description += ": the event and its headers are over the stream's max_msg_size"
            refused = StreamRefused(refusal["err_code"], description, event)
            code = refusal["code"]
            if code in PASSING or code >= 500 or refusal["err_code"] == NO_ROOM:
                raise NotNow(refused, doubtful=False)
            raise refused
        return Receipt(
            event.id,
            stored=True,
            stream=told["stream"],
            sequence=told["seq"],
            duplicate=told.get("duplicate", False),
            attempts=attempts,
            user=event.user,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = f"what answers on {event.subject} is not a stream"
        raise NotAcknowledged(detail, event) from None
