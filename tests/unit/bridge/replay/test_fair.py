"""Slots that users get by turns."""

from __future__ import annotations

import asyncio

from natsbridge.bridge.replay.fair import FairSlots


async def _hold(slots: FairSlots, key: str, order: list[str]) -> None:
    async with slots.slot(key):
        order.append(key)
        await asyncio.sleep(0)


def test_each_user_is_next_once_in_a_round() -> None:
    """However many one has waiting, another is behind one of them and not behind all."""

    async def run() -> list[str]:
        slots, order = FairSlots(1), list[str]()
        keys = ["greedy"] * 50 + ["b", "c"] + ["greedy"] * 50
        await asyncio.gather(*(_hold(slots, key, order) for key in keys))
        assert not slots.is_wanted
        return order

    order = asyncio.run(run())
    assert len(order) == 102
    assert order[1:4] == ["greedy", "b", "c"]


def test_who_asks_for_little_goes_first() -> None:
    """Some slots are never held by those who ask for much, and a newcomer is before all of them;
    one in four goes to them, so that a crowd of newcomers does not keep them waiting for good.
    """

    async def run() -> list[str]:
        slots, order = FairSlots(4, kept=1, is_light=lambda key: key.startswith("new")), list[str]()
        ends = asyncio.Event()

        async def keep(key: str) -> None:
            async with slots.slot(key):
                order.append(key)
                await ends.wait()

        held = [asyncio.create_task(keep(f"heavy{number}")) for number in range(20)]
        await asyncio.sleep(0)
        assert len(order) == 3
        async with asyncio.timeout(1):
            for number in range(5):
                await _hold(slots, f"new{number}", order)
        assert slots.is_wanted
        del order[:]
        crowd = [asyncio.create_task(_hold(slots, f"new{n}", order)) for n in range(100)]
        await asyncio.sleep(0)
        ends.set()
        await asyncio.gather(*held, *crowd)
        assert not slots.is_wanted
        return order

    order = asyncio.run(run())
    assert len(order) == 117
    assert order[-1].startswith("new")
    assert [key for key in order if key.startswith("heavy")] == [f"heavy{n}" for n in range(3, 20)]


def test_who_has_asked_for_much_since_keeps_no_newcomer_waiting() -> None:
    """All slots were given to newcomers, who stay: another one has one of the kept ones as soon as
    it is found out that they ask for much, and no more are given than that.
    """

    async def run() -> None:
        heavy = set[str]()
        slots = FairSlots(4, kept=1, is_light=lambda key: key not in heavy)
        order, ends = list[str](), asyncio.Event()

        async def keep(key: str) -> None:
            async with slots.slot(key):
                order.append(key)
                await ends.wait()

        tasks = [asyncio.create_task(keep(f"{number}")) for number in range(6)]
        await asyncio.sleep(0)
        assert len(order) == 4
        heavy.update(order)
        slots.give()
        await asyncio.sleep(0)
        assert order == ["0", "1", "2", "3", "4"]
        ends.set()
        await asyncio.gather(*tasks)
        assert not slots.is_wanted

    asyncio.run(run())


def test_no_slot_is_lost_by_who_gives_up_waiting() -> None:
    """Cancelled before its turn or just as it comes, one after the other: the slots are there."""

    async def run() -> None:
        slots, order = FairSlots(2, kept=1, is_light=lambda key: key != "0"), list[str]()
        for late in range(5):
            tasks = [asyncio.create_task(_hold(slots, f"{n % 3}", order)) for n in range(9)]
            for _ in range(late):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.wait(tasks)
            assert not slots.is_wanted
        async with asyncio.timeout(1), slots.slot("a"), slots.slot("b"):
            pass

    asyncio.run(run())
