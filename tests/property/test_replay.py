"""A client that comes back, under any interleaving: everything once, each lane in order.

Events are stored, come in, and are replayed in whatever order; the client stalls and reads, and
subscribes whenever it does; the stream now and then does not answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.schemas.cursors import Cursor
from tests.support.bus import everyone, to_user, topic
from tests.support.harness import House, Visitor, person
from tests.support.virtual_loop import run

DIRECT = (to_user("1", "upload.completed", "7"), everyone("system.notification"))
TOPICS = (topic("review.updated", "77"), topic("review.created", "78"))
PATTERNS = ("review.updated", "review.created")
UNWANTED = (to_user("2", "upload.completed", "7"), topic("upload.error", "7"))
ADDRESSES = (*DIRECT, *TOPICS, *UNWANTED)

addresses = st.integers(0, len(ADDRESSES) - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.lists(addresses, min_size=1, max_size=8)),
        st.tuples(st.just("come in"), st.integers(1, 8)),
        st.tuples(st.just("turns"), st.integers(1, 6)),
        st.tuples(st.just("answer"), st.none()),
        st.tuples(st.just("stall"), st.none()),
        st.tuples(st.just("read"), st.none()),
        st.tuples(st.just("fail"), st.none()),
        st.tuples(st.just("subscribe"), st.integers(1, 2)),
        st.tuples(st.just("tick"), st.none()),
    ),
    max_size=30,
)


class Story:
    """What happened to one client, step by step."""

    def __init__(self, house: House, cursor: int) -> None:
        self.house = house
        self.cursor = cursor
        self.lanes: dict[str, list[int]] = {"direct": [], **{each: [] for each in PATTERNS}}
        self.asked: dict[str, int] = {}
        """By pattern: how many messages had come when it was asked for."""
        self.visitor: Visitor

    def store(self, which: int) -> None:
        address = ADDRESSES[which]
        self.house.store(address)
        if self.house.stream.last > self.cursor:
            if address in DIRECT:
                self.lanes["direct"].append(self.house.stream.last)
            elif address in TOPICS:
                self.lanes[address.event_type].append(self.house.stream.last)

    def connect(self) -> None:
        self.visitor = Visitor(self.house, person(), cursor=f"5f-{self.cursor}")

    def subscribe(self, most: int) -> None:
        events = [each for each in PATTERNS if each not in self.asked][:most]
        if events:
            self.asked |= dict.fromkeys(events, len(self.visitor.messages) if self.asked else 0)
            self.visitor.say("subscribe", "m", events=events, cursor=f"5f-{self.cursor}")

    async def step(self, what: str, data: Any) -> None:
        match what:
            case "store":
                for which in data:
                    self.store(which)
            case "come in":
                self.house.come_in(min(data, len(self.house.nats.copies)))
            case "turns":
                for _ in range(data):
                    await asyncio.sleep(0)
            case "answer":
                self.house.answer()
                self.visitor.peer.loop.run()
            case "stall":
                if not self.visitor.peer.socket.paused:
                    self.visitor.stall()
            case "read":
                if self.visitor.peer.socket.paused:
                    self.visitor.read()
            case "fail":
                self.house.stream.failures = min(2, self.house.stream.failures + 1)
            case "subscribe":
                self.subscribe(data)
            case "tick":
                self.house.tick()

    async def end(self) -> None:
        """The client reads, all comes in, and time enough passes."""
        await self.step("answer", None)
        self.subscribe(2)
        await self.step("read", None)
        for _ in range(3):
            self.house.catch_up()
            await self.house.let(4)
            self.visitor.peer.loop.run()
            self.house.tick(later=60)

    def check(self) -> None:
        assert self.visitor.peer.closes == []
        came = self.visitor.stored
        assert len(came) == len(set(came)), f"doubles: {came}"
        for lane, expected in self.lanes.items():
            assert [each for each in came if each in expected] == expected, (lane, came)
        assert set(came) == {each for lane in self.lanes.values() for each in lane}
        ends = self.visitor.told("resume.completed")
        assert all(each["recovered"] for each in ends), ends
        assert self.visitor.session.replay is None
        assert self.house.hub.flush.detours == set()
        assert self.house.replays.waiting == 0

    def check_cursors(self) -> None:
        """Wherever the connection breaks, the cursor seen last leaves out nothing.

        Nor what a second subscribe with a cursor asked for, once it was sent.
        """
        seen: set[int] = set()
        for at, message in enumerate(self.visitor.messages):
            data = message["data"]
            text = message.get("cursor") or data.get("cursor")
            if "cursor" in message:
                seen.add(int(message["id"][1:]))
            if text is None:
                continue
            cursor = Cursor.parse(text)
            missing = [
                *(each for each in self.lanes["direct"] if each <= cursor.direct),
                *(
                    each
                    for pattern in PATTERNS
                    if at >= self.asked[pattern]
                    for each in self.lanes[pattern]
                    if each <= cursor.position
                ),
            ]
            assert seen.issuperset(missing), (message, self.visitor.heard)


async def play(before: list[int], cursor: int, script: list[tuple[str, Any]]) -> Story:
    loop = asyncio.get_running_loop()
    house = House(clock=loop.time, spawn=loop.create_task, queue=5)
    house.interests.hold("live.*.all.>", house.hub.everybody.receive)
    house.answer()
    await house.continuity.look()
    story = Story(house, min(cursor, len(before)))
    for which in before:
        story.store(which)
    house.catch_up()
    story.connect()
    for what, data in script:
        await story.step(what, data)
    await story.end()
    return story


@given(st.lists(addresses, max_size=20), st.integers(0, 20), steps)
def test_everything_after_the_cursor_comes_once(
    before: list[int], cursor: int, script: list[tuple[str, Any]]
) -> None:
    """Stored or live, direct or of a topic: once, and in order among its own kind."""
    run(play(before, cursor, script)).check()


@given(st.lists(addresses, max_size=20), st.integers(0, 20), steps)
def test_the_last_cursor_is_always_one_to_come_back_with(
    before: list[int], cursor: int, script: list[tuple[str, Any]]
) -> None:
    """A client that remembers the cursor it saw last, and is cut there, misses nothing."""
    run(play(before, cursor, script)).check_cursors()
