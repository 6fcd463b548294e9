"""What a client wants and may have changes while stored events are on their way to it.

Under any interleaving with stalls, paces, breaks of NATS and reads that fail: what is wanted and
permitted all the while comes once and in order, and nothing comes that is not any more.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from natsbridge.bridge.identity.tokens import Identity
from tests.support.bus import everyone, to_user, topic
from tests.support.harness import POLICY, House, Visitor, person
from tests.support.virtual_loop import run

WIDE, NARROW, OTHER = "review.updated", "review.updated.77", "review.created"
ALWAYS: Final = ["system.notification", "upload.completed"]
ADDRESSES: Final = (
    topic(WIDE, "77"),
    topic(WIDE, "78"),
    topic(OTHER, "5"),
    to_user("1", "upload.completed", "7"),
    everyone("system.notification"),
)
LANES: Final = ((0,), (3, 4))
"""Which of these are wanted and permitted all the while: of topics, and direct."""
FEWER: Final = (NARROW, OTHER, "upload.>", "system.>")

addresses = st.integers(0, len(ADDRESSES) - 1)
few = st.integers(1, 6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.lists(addresses, min_size=1, max_size=8)),
        st.tuples(st.just("come in"), few),
        st.tuples(st.just("deliver"), few),
        st.tuples(st.just("turns"), few),
        st.tuples(st.just("time"), st.sampled_from((0.05, 0.3))),
        st.tuples(st.sampled_from(("widen", "narrow", "other", "anew")), st.none()),
        st.tuples(st.just("grants"), st.booleans()),
        st.tuples(st.just("policy"), st.sampled_from((None, 5))),
        st.tuples(st.sampled_from(("progress", "answer", "stall", "read", "fail")), st.none()),
        st.tuples(st.sampled_from(("tick", "break", "back")), st.none()),
    ),
    max_size=40,
)


class Story:
    """What happened to one client, step by step."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.stored: list[int] = []
        """Which address each event of the stream has."""
        self.held = {WIDE}
        self.identity = person()
        self.asked: dict[str, tuple[int, int]] = {}
        """By the id of what takes something away: which address, and how many messages had come
        when it was asked for again."""
        self.open: dict[int, str] = {}
        self.visitor: Visitor
        object.__setattr__(house.env, "verify", self._verify)

    def _verify(self, token: str) -> Identity:
        return self.identity

    def store(self, which: int) -> None:
        self.house.store(ADDRESSES[which])
        self.stored.append(which)

    def connect(self, cursor: str, direct: bool) -> None:
        self.visitor = Visitor(self.house, person(), cursor=cursor, direct=direct)
        self.visitor.say("subscribe", "first", events=[WIDE, *ALWAYS], cursor=cursor)

    def _subscribe(self, event: str, **data: Any) -> None:
        self.held.add(event)
        self.visitor.say("subscribe", "s", events=[event], **data)

    def _unsubscribe(self, event: str, name: str = "u") -> None:
        self.held.discard(event)
        self.visitor.say("unsubscribe", name, events=[event])

    def _take_away(self, which: int) -> str:
        """Return the id of a message after whose answer this may not come."""
        name = f"m{len(self.asked)}"
        self.open[which] = name
        self.asked[name] = (which, 1 << 30)
        return name

    def _give_again(self, which: int) -> None:
        if (name := self.open.pop(which, None)) is not None:
            self.asked[name] = (which, len(self.visitor.messages))

    def _change(self, what: str, data: Any) -> None:
        match what:
            case "widen" if WIDE not in self.held:
                self._subscribe(WIDE)
            case "narrow" if NARROW not in self.held:
                self._subscribe(NARROW)
            case "widen" | "narrow" if len(self.held & {WIDE, NARROW}) == 2:
                self._unsubscribe(NARROW if what == "widen" else WIDE)
            case "other" | "anew" if OTHER in self.held:
                self._unsubscribe(OTHER, self._take_away(2))
            case "other" | "anew":
                self._give_again(2)
                self._subscribe(OTHER, **({"cursor": "5f-0"} if what == "anew" else {}))
            case "grants" if data:
                self.identity = person()
                self._give_again(1)
                self.visitor.say("auth.refresh", "r", token="1")
            case "grants" if 1 not in self.open:
                allow = {"subscribe": {"allow": [*FEWER]}}
                self.identity = replace(person(), grants=POLICY.claimed(allow, "user", "1"))
                self.visitor.say("auth.refresh", self._take_away(1), token="1")
            case "policy":
                pace = None if data is None else {"max_rate": data}
                self.visitor.say("subscribe", "p", events=[], policy={"upload.progress": pace})

    async def step(self, what: str, data: Any) -> None:
        house, socket = self.house, self.visitor.peer.socket
        match what:
            case "store":
                for which in data:
                    self.store(which)
            case "come in":
                house.come_in(min(data, len(house.nats.copies)))
            case "deliver":  # and the turn goes on
                for _ in range(min(data, len(house.nats.copies))):
                    house.nats.deliver()
            case "turns":
                for _ in range(data):
                    await asyncio.sleep(0)
            case "time":
                await house.let(data)
            case "answer":
                house.answer()
                self.visitor.peer.loop.run()
            case "stall" if not socket.paused:
                self.visitor.stall()
            case "read" if socket.paused:
                self.visitor.read()
            case "fail":
                house.stream.failures = min(2, house.stream.failures + 1)
            case "tick":
                house.tick()
                if house.nats.is_up and not house.nats.copies:
                    house.continuity.tick()
            case "break" if house.nats.is_up:
                house.break_off()
            case "back" if not house.nats.is_up:
                house.come_back()
            case "progress" if house.nats.is_up:
                house.publish(to_user("1", "upload.progress", "7"))
            case _ if house.nats.is_up:
                self._change(what, data)
                await asyncio.sleep(0)  # a new token is looked at

    async def end(self) -> None:
        """NATS is there, the client reads, all comes in, and time enough passes."""
        self.house.stream.failures = 0
        await self.step("back", None)
        await self.step("policy", None)
        await self.step("read", None)
        for _ in range(3):
            await self.house.let(4)
            self.house.come_in()
            await self.step("read", None)
        self.store(0)  # what is missing shows by the next of its subject
        self.house.catch_up()
        await self.house.let(4)
        self.house.tick(later=60)

    def check(self, cursor: int) -> None:
        visitor = self.visitor
        assert visitor.peer.closes == []
        assert self.house.gaps == []
        came = visitor.stored
        for lane in LANES:
            expected = [
                number
                for number, which in enumerate(self.stored, 1)
                if which in lane and number > cursor
            ]
            assert [each for each in came if self.stored[each - 1] in lane] == expected, lane
        ends = visitor.told("resume.completed")
        assert all(each["recovered"] for each in ends), ends
        assert visitor.session.replay is None
        assert visitor.session.outbox.backlog is None
        assert self.house.replays.waiting == 0

    def check_unwanted(self) -> None:
        """Between the answer that took something away and the asking for it again."""
        messages = self.visitor.messages
        for name, (which, until) in self.asked.items():
            places = [at for at, each in enumerate(messages) if each.get("reply_to") == name]
            for message in messages[places[0] : until] if places else ():
                if "cursor" in message:
                    assert self.stored[int(message["id"][1:]) - 1] != which, message


async def play(
    before: list[int], cursor: int, direct: bool, queue: int, script: list[tuple[str, Any]]
) -> None:
    loop = asyncio.get_running_loop()
    house = House(clock=loop.time, spawn=loop.create_task, queue=queue)
    house.interests.hold("live.*.all.>", house.hub.everybody.receive)
    house.answer()
    await house.continuity.look()
    house.continuity.on_up()
    other = Visitor(house, person("2"))  # wants the same, whatever this one does
    await house.let()
    other.say("subscribe", "m", events=[WIDE, OTHER])
    await house.let()
    story = Story(house)
    for which in before:
        story.store(which)
    house.catch_up()
    cursor = min(cursor, len(before))
    story.connect(f"5f-{cursor}", direct)
    house.answer()
    for what, data in script:
        await story.step(what, data)
    await story.end()
    story.check(cursor)
    story.check_unwanted()


@settings(max_examples=150)
@given(
    st.lists(addresses, max_size=20),
    st.integers(0, 20),
    st.booleans(),
    st.sampled_from((12, 30)),
    steps,
)
def test_changes_cost_nothing_that_is_still_wanted(
    before: list[int], cursor: int, direct: bool, queue: int, script: list[tuple[str, Any]]
) -> None:
    """Once and in order; and what is taken away does not come behind the answer that says so."""
    run(play(before, cursor, direct, queue, script))
