"""What tests of coming back share: a house with stored events, and a client that is there again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from natsbridge.schemas.subjects import Address
from tests.support.bus import to_user, topic
from tests.support.harness import House, Visitor, person

MINE = to_user("1", "upload.completed", "7")
REVIEW = topic("review.updated", "77")


def fill(house: House, *addresses: Address) -> None:
    """Store events that have come in before anybody asks for them."""
    for address in addresses:
        house.store(address)
    house.catch_up()


async def join(house: House, cursor: str | None = None, **options: Any) -> Visitor:
    """Connect and wait until the connection has what it asked for."""
    visitor = Visitor(house, person(), cursor=cursor, **options)
    await house.let(1)
    return visitor


async def first_stored(visitor: Visitor) -> None:
    """Wait until stored events begin to come."""
    while not visitor.stored:
        visitor.house.answer()
        await asyncio.sleep(0)


def completed(visitor: Visitor) -> dict[str, Any]:
    """The data of the only ``resume.completed`` that came."""
    (data,) = visitor.told("resume.completed")
    return data


def live(house: House, visitor: Visitor) -> bool:
    """Whether a durable event that comes in now reaches the client at once, and once."""
    before = visitor.stored
    house.store(MINE)
    house.come_in()
    return visitor.stored == [*before, house.stream.last]


def flood(house: House) -> None:
    """Let more come in than may wait, once it is known how far the stream reached."""

    def come_in() -> None:
        if house.stream.reads:
            house.stream.on_read = lambda: None
            for _ in range(300):
                house.store(MINE)
            house.come_in()

    house.stream.on_read = come_in


def when_written(visitor: Visitor, what: bytes, happens: Callable[[], None]) -> None:
    """Let something happen right after this was written to the client."""
    write = visitor.session.outbox.write

    def writing(data: bytes) -> None:
        write(data)
        if what in data:
            happens()

    visitor.session.outbox.write = writing
