"""Replays from shared history, while what nobody needs of it is let go of."""

from __future__ import annotations

import asyncio

import pytest

from natsbridge.bridge.replay import shared_reader
from tests.support.coming_back import MINE, REVIEW, fill
from tests.support.harness import House, Visitor, person

EVENTS = 600
"""More than is read at a time, of each of the two."""


async def test_what_a_replay_still_needs_is_kept(
    living: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often history is looked through meanwhile, each of a crowd that is at different
    places gets all of its events, once and in order.
    """
    monkeypatch.setattr(shared_reader, "CROWD", 1)
    monkeypatch.setattr(shared_reader, "MUCH", 1)
    fill(living, *[MINE, REVIEW] * (EVENTS // 2))
    visitors = [
        Visitor(living, person(), cursor=f"5f-{after}") for after in (0, EVENTS // 3, EVENTS - 50)
    ]
    mine = list(range(1, EVENTS, 2))
    for _ in range(EVENTS):
        living.answer()
        living.env.recent.tick()
        await asyncio.sleep(0)
    await living.let(1)
    for visitor, after in zip(visitors, (0, EVENTS // 3, EVENTS - 50), strict=True):
        assert visitor.stored == [each for each in mine if each > after]
    assert living.replays.under_way == set()
