"""``natsbridge stream plan | apply``: how the stream differs from what the bridge needs; mending
it.

Adds the subjects of the catalogue's durable types, sets what delivery rests on, and keeps all else
as the server gives it. Takes no subject away but the one of 0.1's stream, which stands for any.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import random
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.js.api import StreamConfig

from natsbridge.bridge.cli.publish import connect
from natsbridge.bridge.cli.terminal import FAILED, USAGE, CommandError, reason, say
from natsbridge.bridge.nats import shape
from natsbridge.bridge.nats.shape import Config
from natsbridge.bridge.nats.stream import NOT_FOUND, PAUSE, ROUNDS, refusal
from natsbridge.bridge.settings import LimitSettings, StreamSettings
from natsbridge.schemas.bus import BusSettings
from natsbridge.schemas.catalogue import Catalogue

DIFFERS: Final = 1
"""Exit code of a plan that has something to do."""


@dataclass(slots=True)
class Plan:
    """What there is to do; ``settings`` has what each is and what it becomes."""

    stream: str
    exists: bool
    add: list[str] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    """What breaks delivery and no update mends."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return self.exists and not (self.add or self.remove or self.settings)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=("plan", "apply"), help="show it, or do it")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def main(options: argparse.Namespace) -> int:
    """Run the command with its parsed arguments."""
    return run(options.action, as_json=options.json)


def run(action: str, *, as_json: bool) -> int:
    """Look, and for ``apply`` do it; returns the exit code.

    A plan's is 0 where nothing is to be done, 1 where something is; 2 is for what can't be told.
    """
    return asyncio.run(_run(action, as_json=as_json))


async def _run(action: str, *, as_json: bool) -> int:
    bus = BusSettings.from_environment(os.environ)
    repair = Repair(bus, StreamSettings.from_environment(os.environ))
    client = await connect(bus, USAGE)
    try:
        if action == "plan":
            _, plan = await repair.plan(client)
            _tell(plan, as_json=as_json, done=False)
            return 0 if plan.is_empty and not plan.left else DIFFERS
        plan = await repair.apply(client)
        _tell(plan, as_json=as_json, done=True)
        return FAILED if plan.left else 0
    finally:
        await client.close()


class Repair:
    """The stream of one deployment, as it is wanted."""

    def __init__(self, bus: BusSettings, settings: StreamSettings) -> None:
        self._bus: Final = bus
        self._settings: Final = settings
        self._want: Final = shape.wanted(
            bus.stream,
            bus.subjects,
            settings,
            catalogue=Catalogue.load(bus.catalogue),
            max_message_size=LimitSettings.from_environment(os.environ).max_message_size,
        )

    async def plan(self, client: Client) -> tuple[Config, Plan]:
        """Return what the stream is to become, and what differs from how it is."""
        answer = await self._ask(client, "INFO", b"", USAGE)
        if (error := answer.get("error")) is not None:
            if error.get("err_code") != NOT_FOUND:
                raise CommandError(f"stream {self._bus.stream}: {refusal(error)}", USAGE)
            config = self._want.as_dict()
            return config, Plan(self._bus.stream, False, add=list(self._want.subjects or ()))
        found = answer["config"]
        revision = shape.revised(found, self._want, self._bus.subjects, self._settings)
        before, after = set(found.get("subjects") or ()), set(revision["subjects"])
        return revision, Plan(
            self._bus.stream,
            True,
            add=sorted(after - before),
            remove=sorted(before - after),
            settings=shape.changes(found, revision),
            left=shape.differences(_parsed(revision), self._want, self._bus.subjects),
        )

    async def apply(self, client: Client) -> Plan:
        """Do what is to be done, until it is seen to be; returns all that was done."""
        revision, plan = done = await self.plan(client)
        for _ in range(ROUNDS):
            if plan.is_empty:
                return done[1]
            operation = "UPDATE" if plan.exists else "CREATE"
            answer = await self._ask(client, operation, json.dumps(revision).encode(), FAILED)
            if (error := answer.get("error")) is not None:
                raise CommandError(f"stream {self._bus.stream}: {refusal(error)}", FAILED)
            # Another bridge may have written at the same time: see bridge.broker.streams.
            await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311  # by chance, no secret
            revision, plan = await self.plan(client)
        raise CommandError(f"stream {self._bus.stream}: somebody else changes it again", FAILED)

    async def _ask(self, client: Client, operation: str, payload: bytes, code: int) -> Config:
        subject = f"$JS.API.STREAM.{operation}.{self._bus.stream}"
        try:
            answer = await client.request(subject, payload, timeout=self._bus.timeout)
            found = json.loads(answer.data)
        except nats.errors.NoRespondersError:
            raise CommandError("NATS has no JetStream", code) from None
        except (nats.errors.Error, TimeoutError, OSError) as error:
            told = client.last_error or error
            raise CommandError(f"{subject}: {reason(told)}", code) from None
        except ValueError:
            found = None
        if not isinstance(found, dict) or not ("error" in found or "config" in found):
            raise CommandError(f"{subject}: the answer can't be read", code)
        return found


def _parsed(config: Config) -> StreamConfig:
    found: StreamConfig = StreamConfig.from_response(
        copy.deepcopy(config)
    )  # it changes what it reads
    return found


def _tell(plan: Plan, *, as_json: bool, done: bool) -> None:
    if as_json:
        say(json.dumps({**asdict(plan), "done": done and not plan.is_empty}))
        return
    if plan.is_empty and not plan.left:
        say(f"stream {plan.stream}: nothing to do")
        return
    made = "made" if done else "does not exist: it will be made"
    changed = "changed" if done else "will change"
    say(f"stream {plan.stream}: {changed if plan.exists else made}")
    for sign, subjects in (("-", plan.remove), ("+", plan.add)):
        for each in subjects:
            say(f"  {sign} subject {each}")
    for name, (before, after) in plan.settings.items():
        say(f"  ~ {name}: {_shown(name, before)} → {_shown(name, after)}")
    for each in plan.left:
        say(f"  ! {each}")


def _shown(name: str, value: Any) -> str:
    if name in ("max_age", "duplicate_window") and isinstance(value, int):
        return f"{value / 1e9:g} s"  # the server's are in nanoseconds
    if isinstance(value, dict):
        return json.dumps(value)
    return shape.shown(value)
