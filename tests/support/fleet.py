"""Many good clients at once, with different subscriptions, and the check of what each got."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self

from tests.support.accounting import Audit, Ledger, audit, check
from tests.support.model import Wish
from tests.support.resuming_client import OnMessage, ResumingClient

AT_ONCE: Final = 50


def mixed_wishes(users: Sequence[str]) -> list[Wish]:
    """One wish of each kind, for these users in turn: no more than three of one user."""
    kinds: list[dict[str, object]] = [
        {},
        {"subscribe": ["review.*"]},
        {"subscribe": ["review.updated.1", "review.updated.2", "upload.*.a=2Eb=20c"]},
        {"subscribe": [">"]},
        {"subscribe": ["upload.*", "system"], "direct": False},
        {"subscribe": ["system.notification", "file.ready.77"]},
        {"subscribe": [">"], "allow": ("review.*", "system.maintenance")},
        {"subscribe": ["*.*.77"], "deny": ("upload.error",)},
        {"subscribe": [">"], "direct": False},
    ]
    assert len(kinds) <= 3 * len(users)
    return [
        Wish(users[at % len(users)], **kind)  # type: ignore[arg-type]  # each by its name
        for at, kind in enumerate(kinds)
    ]


class Fleet:
    """Clients that are connected and subscribed when the block begins."""

    def __init__(
        self,
        urls: Sequence[str],
        wishes: Sequence[Wish],
        ledger: Ledger,
        *,
        seed: int = 0,
        on_message: OnMessage | None = None,
        deadline: float = 30.0,
    ) -> None:
        self.ledger = ledger
        self._deadline = deadline
        self.clients = [
            ResumingClient(
                urls,
                wish,
                name=f"client {at} of {wish.user} {wish.subscribe}",
                seed=seed,
                on_message=on_message,
            )
            for at, wish in enumerate(wishes)
        ]

    async def __aenter__(self) -> Self:
        gate = asyncio.Semaphore(AT_ONCE)

        async def start(client: ResumingClient) -> None:
            async with gate:
                await client.start(self._deadline)

        try:
            await asyncio.gather(*map(start, self.clients))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        stopped = await asyncio.gather(
            *(client.stop() for client in self.clients), return_exceptions=True
        )
        for outcome in stopped:
            if isinstance(outcome, BaseException):
                raise outcome

    def move(self, urls: Sequence[str]) -> None:
        """Let every client come back to these replicas from now on, or wait if there are none."""
        for client in self.clients:
            client.move(urls)

    async def settled(self, deadline: float) -> float:
        """Wait until each client has come to the end of what it is due; return the seconds.

        What is wrong on the way is found by :meth:`check`, which runs when the time is over too.
        """
        began = time.monotonic()

        async def reach(client: ResumingClient) -> None:
            account = client.account
            # What comes by itself and what was subscribed to may come one after the other.
            last = {account.by_itself(event): event for event in account.due(self.ledger)}
            for end in last.values():
                left = max(began + deadline - time.monotonic(), 0.01)
                await client.until(partial(account.has, end), f"at {end.sequence}", left)

        for client in self.clients:
            try:
                await reach(client)
            except AssertionError as error:
                self.check()
                raise AssertionError(
                    f"{error}\nof {len(self.ledger)} acknowledged events"
                ) from None
        return time.monotonic() - began

    def check(self) -> list[Audit]:
        """Fail where a client lacks something, or has it twice, or in another order."""
        assert all(client.refused is None for client in self.clients), "told not to come back"
        try:
            return check((client.account for client in self.clients), self.ledger)
        except AssertionError as error:
            wrong = [each for each in self.clients if audit(each.account, self.ledger).faults]
            raise AssertionError(f"{error}\nthe first of them: {wrong[0]}") from None
