"""``natsbridge publish``: one event onto NATS, checked as the bridge would check it.

Straight through nats-py: the subjects and the envelope are the contract, and the bridge never
imports the SDK.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any, Final

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from pydantic_core import to_jsonable_python

from natsbridge.bridge.cli.terminal import FAILED, CommandError, reason, say
from natsbridge.schemas.bus import BusSettings
from natsbridge.schemas.catalogue import Catalogue, EventType
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.envelope import HEADER_ID, HEADER_SCHEMA, new_id, schema_header, timestamp
from natsbridge.schemas.errors import EventError, IdError
from natsbridge.schemas.subjects import Address, Audience, Root, encode_id

SOURCE: Final = "bridge-publish"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("type", metavar="TYPE", help="upload.progress, …")
    parser.add_argument("data", metavar="JSON", help="the event's data, `-` to read it from stdin")
    audience = parser.add_mutually_exclusive_group(required=True)
    audience.add_argument("--user", nargs="+", metavar="ID", help="to every connection of them")
    audience.add_argument("--topic", action="store_true", help="to whoever subscribed to it")
    audience.add_argument("--all", action="store_true", help="to every connection")


def main(options: argparse.Namespace) -> int:
    """Run the command with its parsed arguments."""
    return run(options.type, options.data, users=options.user or [], everybody=bool(options.all))


def run(event_type: str, data: str, *, users: list[str], everybody: bool) -> int:
    """Publish, and say what NATS answered."""
    settings = BusSettings.from_environment(os.environ)
    kind = known(Catalogue.load(settings.catalogue), event_type)
    audience = Audience.USER if users else Audience.ALL if everybody else Audience.TOPIC
    if audience not in kind.traits.audiences:
        allowed = ", ".join(sorted(kind.traits.audiences))
        raise CommandError(f"{event_type} is not for the audience {audience} (only {allowed})")
    value = read(sys.stdin.read() if data == "-" else data)
    # One message for each user, each with an id of its own: the stream takes an id once.
    messages = [message(kind, audience, value, user) for user in users or [""]]
    asyncio.run(send(settings, kind, messages))
    return 0


def with_defaults(kind: EventType, data: Any) -> Any:
    """Return data with the model's defaults filled in, as the SDK does: the wire requires them."""
    if not isinstance(data, dict):
        return data
    filled = dict(data)
    for name, field in kind.model.model_fields.items():
        if not field.is_required():
            value = field.get_default(call_default_factory=True, validated_data={})
            if value is not None:
                filled.setdefault(field.alias or name, to_jsonable_python(value))
    return filled


def known(catalogue: Catalogue, event_type: str) -> EventType:
    """Return the type of this name."""
    kind = catalogue.get(event_type)
    if kind is None:
        raise CommandError(
            f"{event_type} is not in the catalogue, which has {', '.join(catalogue.types)}"
        )
    return kind


def read(text: str) -> object:
    """Return the data that this JSON text means."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"the data is not JSON: {error}") from None


def message(
    kind: EventType, audience: Audience, data: object, user: str
) -> tuple[Address, str, bytes]:
    """Return an event's address, id and bytes; refused as the bridge would refuse it."""
    identifier = new_id()
    envelope = {
        "type": kind.name,
        "id": identifier,
        "timestamp": timestamp(),
        "data": with_defaults(kind, data),
        "source": SOURCE,
    }
    try:
        payload = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
        resource = kind.read(payload).data.resource_token
        address = Address(audience, kind.name, resource, encode_id(user) if user else "")
    except UnicodeEncodeError:
        raise CommandError("the data holds text that UTF-8 can't encode") from None
    except EventError as error:
        raise CommandError(told(error)) from None
    except IdError as error:
        raise CommandError(f"the resource or user: {error}") from None
    return address, identifier, payload


def told(error: EventError) -> str:
    """Return in one line what is wrong with an event."""
    if error.reason == RejectReason.INVALID_JSON:
        return f"the data is not JSON: {error.detail}"
    return f"{error.field}: {error.detail}" if error.field else error.detail


async def send(
    settings: BusSettings, kind: EventType, messages: list[tuple[Address, str, bytes]]
) -> None:
    """Publish each message: durable types through the stream, the others to ``live.service``."""
    client = await connect(settings)
    try:
        for address, identifier, payload in messages:
            headers = {
                HEADER_ID: identifier,
                HEADER_SCHEMA: schema_header(kind.name, kind.traits.version),
            }
            root = Root.EVENTS if kind.traits.durable else Root.SERVICE
            subject = settings.subjects.event(root, address)
            if kind.traits.durable:
                say(await _store(client, settings, subject, payload, headers))
            else:
                await client.publish(subject, payload, headers=headers)
                say(f"sent to {subject} (ephemeral: nothing is stored or acknowledged)")
        await client.flush(int(settings.timeout) or 1)
    except (TimeoutError, nats.errors.Error) as error:
        raise CommandError(f"NATS at {_servers(settings)}: {reason(error)}", FAILED) from None
    finally:
        await client.close()


def _servers(settings: BusSettings) -> str:
    return ", ".join(url.rpartition("@")[2].removeprefix("nats://") for url in settings.url)


async def connect(settings: BusSettings, code: int = FAILED) -> Client:
    """Return a connection to NATS; ends the command with this code where there is none."""
    where = _servers(settings)
    try:
        async with asyncio.timeout(settings.timeout):
            return await _connect(settings)
    except TimeoutError:
        raise CommandError(f"NATS at {where} does not answer", code) from None
    except (OSError, nats.errors.Error) as error:
        raise CommandError(f"NATS at {where}: {reason(error)}", code) from None


async def _connect(settings: BusSettings) -> Client:
    refused: list[Exception] = []

    async def on_error(error: Exception) -> None:
        # nats-py would write a traceback to the log; what it tried last says it as well.
        refused[:] = [error]

    try:
        return await nats.connect(
            **settings.connect_options(),
            name=SOURCE,
            error_cb=on_error,
            # Each server is tried twice, and then it is over.
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=max(1, int(settings.timeout)),
        )
    except nats.errors.NoServersError:
        raise (refused[0] if refused else nats.errors.Error("no server answers")) from None


async def _store(
    client: Client, settings: BusSettings, subject: str, payload: bytes, headers: dict[str, str]
) -> str:
    try:
        ack = await client.jetstream(timeout=settings.timeout).publish(
            subject, payload, headers=headers
        )
    except nats.js.errors.NoStreamResponseError:
        raise CommandError(
            f"no stream takes {subject}: the bridge makes {settings.stream} when it starts, and "
            "`natsbridge stream apply` has it take the types of BRIDGE_CATALOGUE",
            FAILED,
        ) from None
    doubled = ", a duplicate" if ack.duplicate else ""
    return f"stored in {ack.stream} as {ack.seq}{doubled}: {subject}"
