"""What a hostile service tries within the rights of its NATS user, to speak for others.

It is ``upload-service``; whatever the server refuses is not delivered, and nothing here looks at
that. What it may do leads nowhere, which the tests see at those whom it was to harm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from natsbridge.schemas.envelope import new_id
from tests.support.peers import Peer
from tests.support.rights import event

FORGED: Final = "forged"
"""Begins the ids of events that nobody may get."""

FAR: Final = 1_000_000
"""A sequence that the stream does not reach."""


@dataclass(frozen=True)
class Try:
    """One message, published by the attacker."""

    subject: str
    body: str
    headers: Mapping[str, str]
    reply: str = ""


def tries(victim: str, resource: str, ticket_key: str) -> Iterator[Try]:
    """Yield one round of attacks on a user, and on the topic of a review."""
    place = f"events.user.mallory.upload.completed.{resource}"
    forged = event(
        "review.updated",
        {"review_id": resource, "changes": {"status": FORGED}},
        id=f"{FORGED}-{new_id()}",
    )
    own = event("upload.completed", {"upload_id": resource, "result": {}})
    targets = [
        f"live.stream.user.{victim}.review.updated.{resource}",
        f"live.stream.topic.review.updated.{resource}",
        f"live.stream.all.system.maintenance.{resource}",
        f"live.service.user.{victim}.review.updated.{resource}",
        f"live.service.topic.review.updated.{resource}",
        f"live.bridge.user.{victim}.hello",
        f"rejected.stream.user.{victim}.review.updated.{resource}",
        f"commands.review.close.{victim}.{resource}",
        f"events.user.{victim}.review.updated.{resource}",
        "control.all",
        f"$KV.bridge_tickets.{ticket_key}",
        "_INBOX_bridge.x",
        "_INBOX_review-service.x",
    ]
    administration = [
        f"$JS.API.STREAM.{request}.{stream}"
        for request in ("PURGE", "DELETE", "MSG.DELETE", "UPDATE", "CREATE", "LEADER.STEPDOWN")
        for stream in ("EVENTS", "KV_bridge_tickets")
    ]
    # 1. Straight there.
    for target in targets:
        yield Try(target, forged, sequence_headers(victim, resource))
    for target in administration:
        yield Try(target, "", {})
    # 2. The stream's headers on what it may publish.
    for subject, body in (
        (f"live.service.user.{victim}.upload.progress.{resource}", progress(resource)),
        (f"live.service.topic.upload.progress.{resource}", progress(resource)),
        (f"live.service.all.upload.progress.{resource}", progress(resource)),
        (f"events.user.{victim}.upload.completed.{resource}", own),
        (f"events.topic.upload.completed.{resource}", own),
    ):
        yield Try(subject, body, sequence_headers(victim, resource))
        yield Try(subject, forged, sequence_headers(victim, resource))
    # 3. A stored event of its own, and its acknowledgement, by the reply subject of its request.
    yield Try(place, forged, {})
    for target in targets + administration:
        yield Try(place, own, {}, target)
        yield Try(f"$JS.API.DIRECT.GET.EVENTS.{place}", "", {}, target)
        yield Try("$JS.API.DIRECT.GET.EVENTS", json.dumps({"last_by_subj": place}), {}, target)
    # 4. Headers on which a server acts, on what is delivered, stored, and relayed as rejected.
    for name, value in (
        ("Nats-Trace-Dest", "control.all"),
        ("Nats-Trace-Dest", targets[0]),
        ("Nats-Rollup", "all"),
        ("Nats-Rollup", "sub"),
        ("Nats-TTL", "1s"),
        ("Nats-Expected-Last-Sequence", "0"),
        ("Nats-Schedule", "@every 1s"),
        ("Nats-Batch-Id", "b"),
    ):
        headers = {name: value, "Nats-Schedule-Target": targets[8], "Nats-Batch-Sequence": "1"}
        yield Try(f"live.service.user.{victim}.upload.progress.{resource}", "no JSON", headers)
        yield Try(f"live.service.topic.upload.progress.{resource}", progress(resource), headers)
        yield Try(place, own, headers)


def sequence_headers(victim: str, resource: str) -> dict[str, str]:
    """The headers of the stream, as they would be on an event that is far ahead."""
    return {
        "Nats-Stream": "EVENTS",
        "Nats-Subject": f"events.user.{victim}.review.updated.{resource}",
        "Nats-Sequence": str(FAR),
        "Nats-Time-Stamp": "2026-01-01T00:00:00Z",
        "Nats-Last-Sequence": str(FAR - 1),
    }


def progress(resource: str) -> str:
    """An event that it may publish."""
    return event("upload.progress", {"upload_id": resource, "progress": 1})


async def attack(peer: Peer, victim: str, resource: str, ticket_key: str) -> int:
    """Try all of it; returns how much of it the server let through."""
    passed = 0
    for each in tries(victim, resource, ticket_key):
        await peer.publish(each.subject, each.body, each.headers, each.reply)
        passed += not peer.refusals
    return passed
