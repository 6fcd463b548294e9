"""The two complete services of ``docs/services.md``, taken from the page as they stand there, with
the NATS rights of ``deploy/``.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from tests.support.bridge import OutputProcess
from tests.support.clients import Client, Clients, new_user
from tests.support.pages import block
from tests.support.peers import NODE, install_node
from tests.support.rights import Deployed, event

LONG: Final = "600"
"""Seconds of an upload that ends only by being cancelled."""
DEADLINE: Final = 20.0

Start = Callable[..., AbstractAsyncContextManager[OutputProcess]]


@pytest.fixture(params=["python", "node"])
def start(request: pytest.FixtureRequest, tmp_path: Path, deployed: Deployed) -> Start:
    """Start a service of the page, as the NATS user ``upload-service``."""
    if request.param == "python":
        (tmp_path / "ids.py").write_text(block("services", "ids.py"))
        (tmp_path / "upload_service.py").write_text(block("services", "upload_service.py"))
        command = [sys.executable, str(tmp_path / "upload_service.py")]
    else:
        install_node()
        (tmp_path / "ids.mjs").write_text(block("services", "ids.mjs"))
        (tmp_path / "upload_service.mjs").write_text(block("services", "upload_service.mjs"))
        (tmp_path / "node_modules").symlink_to(NODE / "node_modules")
        command = ["node", str(tmp_path / "upload_service.mjs")]
    environment = {"PATH": os.environ["PATH"]} | deployed.guarded.login("upload-service").settings

    @asynccontextmanager
    async def starting(*arguments: str) -> AsyncIterator[OutputProcess]:
        process = OutputProcess([*command, *arguments], environment)
        try:
            yield process
            process.terminate()
            assert await asyncio.to_thread(process.wait) == 0, process.output
            assert "nats:" not in process.output, process.output
        finally:
            process.kill()

    return starting


async def line(process: OutputProcess, pattern: str) -> re.Match[str]:
    """Return the first line of this form that the service writes."""
    return await asyncio.to_thread(process.wait_for_line, re.compile(pattern), DEADLINE)


async def next_of(client: Client, *kinds: str) -> dict[str, Any]:
    """Return the next message but progress, which has one of these types."""
    while (message := await client.receive(DEADLINE))["type"] == "upload.progress":
        pass
    assert message["type"] in kinds, message
    return message


@pytest.mark.parametrize("upload", ["plain", "a b/ü.*"])
async def test_an_upload_runs_to_its_end(start: Start, deployed: Deployed, upload: str) -> None:
    """Its user sees each step and then the stored event, with its cursor."""
    user, upload = new_user("ann@example.com"), f"{upload} {uuid4().hex}"
    async with Clients(deployed.bridges[0].url) as clients:
        client = await clients.join(user)
        async with start(user, upload, "0.5") as service:
            for percent in range(0, 100, 10):
                message = await client.receive(DEADLINE)
                assert message["type"] == "upload.progress", message
                assert message["data"] == {"upload_id": upload, "progress": percent}
            stored = await next_of(client, "upload.completed")
            assert stored["data"] == {"upload_id": upload, "result": {"size": 1024}}
            place = (await line(service, r"stored: upload\.completed (\d+)"))[1]
            assert f"-{place}" in stored["cursor"]


async def test_a_command_is_answered(start: Start, deployed: Deployed) -> None:
    """The upload's user cancels it, a second time without harm; others may not."""
    user, upload = new_user(), uuid4().hex
    async with Clients(deployed.bridges[1].url) as clients:
        client, other = await clients.join(user), await clients.join()
        async with start(user, upload, LONG):
            assert (await client.receive(DEADLINE))["type"] == "upload.progress"
            await other.send("upload.cancel", {"upload_id": upload}, "c0")
            told = await other.expect_error("NOT_PERMITTED", "c0")
            assert told["data"]["message"] == "you have no such upload"
            for number in (1, 2):
                await client.send("upload.cancel", {"upload_id": upload}, f"c{number}")
            kinds = [
                (await next_of(client, "command.accepted", "upload.cancelled"))["type"]
                for _ in range(3)
            ]
            assert sorted(kinds) == ["command.accepted", "command.accepted", "upload.cancelled"]


async def test_a_forged_command_is_refused(start: Start, deployed: Deployed) -> None:
    """A request whose payload disagrees with its subject cancels nothing."""
    user, upload = new_user(), uuid4().hex
    async with (
        Clients(deployed.bridges[0].url) as clients,
        deployed.guarded.peer("bridge") as bridge,
    ):
        client = await clients.join(user)
        async with start(user, upload, LONG):
            assert (await client.receive(DEADLINE))["type"] == "upload.progress"
            for payload in (
                "{}",
                "[]",
                "no JSON",
                json.dumps({"user_id": "x", "resource_id": upload}),
            ):
                answer = await bridge.request(f"commands.upload.cancel.{user}.{upload}", payload)
                told = json.loads(answer.data)
                assert told == {"accepted": False, "reason": "malformed request"}
            # Nor does anything but the upload's next step, in a minute, come before the real one.
            await client.send("upload.cancel", {"upload_id": upload}, "c1")
            kinds = [(await client.receive(DEADLINE))["type"] for _ in range(2)]
            assert sorted(kinds) == ["command.accepted", "upload.cancelled"]


async def test_rejects_are_read(start: Start, deployed: Deployed) -> None:
    """The service learns of a bad event of its own, stored or not, and why it was rejected."""
    user, upload = new_user(), uuid4().hex
    async with (
        Clients(deployed.bridges[0].url) as clients,
        deployed.guarded.peer("upload-service") as colleague,
    ):
        client = await clients.join(user)
        async with start(user, upload, LONG) as service:
            assert (await client.receive(DEADLINE))["type"] == "upload.progress"
            tail = f"user.{user}.upload.completed.{upload}"
            bad = event("upload.completed", {"upload_id": upload, "result": None})
            await colleague.store(f"events.{tail}", bad)
            found = await line(service, rf"rejected: rejected\.stream\.{tail} (\w+) (.*)")
            assert found[1] == "INVALID_DATA"
            assert "result" in found[2]
            tail = f"user.{user}.upload.progress.{upload}"
            await colleague.publish(f"live.service.{tail}", event("upload.progress", {}))
            found = await line(service, rf"rejected: rejected\.service\.{tail} (\w+) (.*)")
            assert found[1] == "INVALID_DATA"
