"""Slots that users get by turns."""

from __future__ import annotations

import asyncio

from bridge.broker.fair import FairSlots


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


def test_no_slot_is_lost_by_who_gives_up_waiting() -> None:
    """Cancelled before its turn or just as it comes, one after the other: the slots are there."""

    async def run() -> None:
        slots, order = FairSlots(2), list[str]()
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
