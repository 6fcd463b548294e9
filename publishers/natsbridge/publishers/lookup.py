"""Whether the stream has an event already, for one that was sent and not acknowledged.

The stream is asked for the last message on the event's subject, with a Direct Get. Where that is
another event, the subject's messages are read from the last position that is known to be older.
A follower of a replicated stream may answer, and may be behind by a moment.
"""

from __future__ import annotations

import json
from typing import Final

from natsbridge.publishers.connection import Connection, Message, NoResponders
from natsbridge.publishers.errors import CallerError, NotPermitted
from natsbridge.publishers.outgoing import OutgoingEvent
from natsbridge.schemas.envelope import HEADER_ID

STEPS: Final = 1000
"""Messages of one subject that are read at most."""

_SEQUENCE: Final = "Nats-Sequence"


class CannotTell(Exception):
    """The stream can't be asked; the message says why."""


async def find(
    connection: Connection, stream: str, event: OutgoingEvent, after: int, deadline: float
) -> int | None:
    """Return the sequence that the stream has given to the event, None where it has none.

    ``after`` is a sequence that was given out before the event was first sent, 0 where none is
    known. Raises :class:`CannotTell`, and :class:`TimeoutError` and
    :class:`publishers.BrokerUnavailable` as :meth:`Connection.request` does.
    """
    root = f"$JS.API.DIRECT.GET.{stream}"
    last = await _ask(connection, f"{root}.{event.subject}", b"", deadline)
    if last is None:
        return None
    newest = int(last.headers[_SEQUENCE])
    if last.headers.get(HEADER_ID) == event.id:
        return newest
    # A stream that was made anew counts from one again.
    sequence = after if after <= newest else 0
    for _ in range(STEPS):
        wanted = {"seq": sequence + 1, "next_by_subj": event.subject}
        found = await _ask(connection, root, json.dumps(wanted).encode(), deadline)
        if found is None:
            return None
        sequence = int(found.headers[_SEQUENCE])
        if found.headers.get(HEADER_ID) == event.id:
            return sequence
        if sequence >= newest:
            return None
    raise CannotTell(f"over {STEPS} messages on {event.subject}")


async def _ask(
    connection: Connection, subject: str, payload: bytes, deadline: float
) -> Message | None:
    try:
        answer = await connection.request(subject, payload, {}, deadline)
    except NoResponders:
        raise CannotTell(f"nothing answers on {subject}: is allow_direct off?") from None
    except (NotPermitted, CallerError) as error:
        raise CannotTell(str(error)) from None
    status = answer.headers.get("Status")
    if status == "404":
        return None
    if status is not None or not answer.headers.get(_SEQUENCE, "").isdigit():
        raise CannotTell(f"{subject} answered {status or 'something else than a stream'}")
    return answer
