"""Tokens that are refused: told after the upgrade, as a close code; and who keeps failing."""

from __future__ import annotations

import asyncio
import json
import re
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from websockets.exceptions import InvalidStatus

from natsbridge.schemas import codes
from tests.support.bridge import BridgeProcess, StartBridge
from tests.support.clients import SECRET, WAYS, Clients, Way, http, mint, new_user


def unsigned(claims: dict[str, Any]) -> str:
    """Return a token of the algorithm ``none``."""
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    coded = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join((*coded, ""))


def bad_tokens() -> dict[str, str]:
    """Return tokens that are no good, by what is wrong with them."""
    now = int(time.time())
    good = mint("1")
    head, body, signature = good.split(".")
    other = mint("2").split(".")[1]
    return {
        "garbage": "garbage",
        "three parts": "a.b.c",
        "foreign key": mint("1", secret="another-secret-of-more-than-32-bytes-00"),
        "signature cut": good[:-4],
        "foreign claims": ".".join((head, other, signature)),
        "no signature": f"{head}.{body}.",
        "unsigned": unsigned({"sub": "1", "exp": now + 600}),
        "algorithm": jwt.encode({"sub": "1", "exp": now + 600}, SECRET, "HS512"),
        "no sub": mint("1", sub=None),
        "empty sub": mint(""),
        "long sub": mint("x" * 129),
        "sub too long when encoded": mint("é" * 22),
        "no exp": mint("1", exp=None),
        "exp is text": mint("1", exp="tomorrow"),
        "not for a day": mint("1", nbf=now + 25 * 3600),
    }


@pytest.mark.parametrize("wrong", bad_tokens())
async def test_bad_token(bridge: BridgeProcess, wrong: str) -> None:
    """The upgrade is accepted, and the close code says 4500: a browser can read that."""
    async with Clients(bridge.url) as clients:
        client = await clients.connect(bad_tokens()[wrong], "header")
        await client.expect_close(codes.INVALID_TOKEN)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "ticket"])
async def test_bad_token_in_each_way(bridge: BridgeProcess, way: Way) -> None:
    """It does not matter how a bad token came; a ticket for it is never given."""
    async with Clients(bridge.url) as clients:
        bad = mint(new_user(), secret="another-secret-of-more-than-32-bytes-00")
        client = await clients.connect(bad, way)
        await client.expect_close(codes.INVALID_TOKEN)


@pytest.mark.parametrize("way", ["header", "message"])
async def test_expired_token(bridge: BridgeProcess, way: Way) -> None:
    """A token whose time has passed is 4001: come back with a new one."""
    async with Clients(bridge.url) as clients:
        client = await clients.connect(mint(new_user(), lifetime=-10), way)
        await client.expect_close(codes.TOKEN_EXPIRED)


@pytest.mark.parametrize("way", ["header", "message"])
async def test_inactive_user(bridge: BridgeProcess, way: Way) -> None:
    """A deactivated user is told so: 4501, and must not come back."""
    async with Clients(bridge.url) as clients:
        client = await clients.connect(mint(new_user(), active=False), way)
        await client.expect_close(codes.REVOKED)


async def test_odd_but_good_tokens(bridge: BridgeProcess) -> None:
    """Ids of any characters, ``roles`` as a list, and claims that nobody asked for are fine."""
    async with Clients(bridge.url) as clients:
        now = int(time.time())
        for claims in (
            {"active": True, "iat": now, "nbf": now - 5, "jti": "j1"},
            {"roles": ["editor", "viewer"], "email": "user@example.com", "name": "A user"},
            {"iss": "somebody", "aud": ["somewhere"], "more": {"a": [1]}},
        ):
            client = await clients.join(new_user(), **claims)
            await client.ping()
        for user in ("a.b@example.com", "*", ">", "ünï cödé", "-", "x" * 128):
            await clients.join(user)


async def test_issuer_and_audience(start_bridge: StartBridge) -> None:
    """Both are checked when they are set."""
    bridge = start_bridge(
        BRIDGE_JWT_ISSUER="https://issuer.example", BRIDGE_JWT_AUDIENCE="bridge,other"
    )
    good: dict[str, Any] = {"iss": "https://issuer.example", "aud": "bridge"}
    async with Clients(bridge.url) as clients:
        await clients.join(**good)
        await clients.join(**{**good, "aud": ["x", "other"]})
        wrong: dict[str, Any]
        for wrong in ({"iss": None}, {"iss": "https://x.example"}, {"aud": None}, {"aud": "x"}):
            client = await clients.connect(mint(new_user(), **{**good, **wrong}))
            await client.expect_close(codes.INVALID_TOKEN)


async def test_address_that_keeps_failing(start_bridge: StartBridge) -> None:
    """Good handshakes never count; after so many failed ones the answer is 429."""
    bridge = start_bridge(BRIDGE_FAILED_HANDSHAKES="3")
    async with Clients(bridge.url) as clients:
        for _ in range(8):
            await clients.join()
        for _ in range(3):
            client = await clients.connect("garbage")
            await client.expect_close(codes.INVALID_TOKEN)
        refusal = await clients.rejected("/ws/garbage")
        assert refusal.status_code == 429


async def test_a_good_token_gets_in_beside_failures(start_bridge: StartBridge) -> None:
    """Behind an address over its limit a good token gets in whichever way it comes before the
    upgrade, a ticket too; what fails is 429, and so is whoever brings nothing yet.
    """
    bridge = start_bridge(BRIDGE_FAILED_HANDSHAKES="3")
    async with Clients(bridge.url) as clients:
        for _ in range(3):
            client = await clients.connect("garbage")
            await client.expect_close(codes.INVALID_TOKEN)
        for way in ("header", "subprotocol", "ticket", "path"):
            await clients.join(way=way)
        foreign = mint(new_user(), secret="another-secret-of-more-than-32-bytes-00")
        expired = mint(new_user(), lifetime=-10)
        for path in ("/ws", "/ws/garbage", f"/ws/{foreign}", f"/ws/{expired}"):
            refusal = await clients.rejected(path)
            assert refusal.status_code == 429
            assert 1 <= int(refusal.headers["Retry-After"]) <= 60


async def test_good_tokens_beside_a_flood(start_bridge: StartBridge) -> None:
    """Hundreds of bad ones from the same address, at the same time, keep no good one out."""
    bridge = start_bridge(BRIDGE_FAILED_HANDSHAKES="3")
    foreign = mint(new_user(), secret="another-secret-of-more-than-32-bytes-00")
    async with Clients(bridge.url) as clients:
        for _ in range(3):
            client = await clients.connect("garbage")
            await client.expect_close(codes.INVALID_TOKEN)

        async def fail() -> None:
            for _ in range(40):
                refusal = await clients.rejected(f"/ws/{foreign}")
                assert refusal.status_code == 429

        flood = [asyncio.create_task(fail()) for _ in range(10)]
        for _ in range(20):
            await clients.join()
        await asyncio.gather(*flood)


async def test_calls_of_an_address_over_its_limit(start_bridge: StartBridge) -> None:
    """A bad token counts the same in a call as in a handshake, and good ones are served."""
    bridge = start_bridge(BRIDGE_FAILED_HANDSHAKES="3")
    foreign = mint(new_user(), secret="another-secret-of-more-than-32-bytes-00")
    async with http(bridge.url) as api, Clients(bridge.url) as clients:
        bad = {"Authorization": f"Bearer {foreign}"}
        answers = [await api.post("/ws/tickets", headers=bad) for _ in range(4)]
        assert [each.status_code for each in answers] == [401, 401, 401, 429]
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert (await api.post("/ws/tickets")).status_code == 401
        assert (await clients.rejected("/ws")).status_code == 429
        good = {"Authorization": f"Bearer {mint(new_user())}"}
        assert (await api.post("/ws/tickets", headers=good)).status_code == 200


async def test_tickets_of_an_address_over_its_limit(start_bridge: StartBridge) -> None:
    """Ten look-ups a second, then 429: whoever guesses tickets is not to make the bridge ask."""
    bridge = start_bridge(BRIDGE_FAILED_HANDSHAKES="3")
    async with Clients(bridge.url) as clients:
        for _ in range(3):
            client = await clients.open(query={"ticket": "A" * 43})
            await client.expect_close(codes.TOKEN_EXPIRED)

        async def guess() -> int:
            try:
                client = await clients.open(query={"ticket": "A" * 43})
            except InvalidStatus as refusal:
                return refusal.response.status_code
            await client.expect_close(codes.TOKEN_EXPIRED)
            return 101

        began = time.monotonic()
        answers = await asyncio.gather(*(guess() for _ in range(60)))
        seconds = int(time.monotonic() - began) + 1
        assert 10 <= answers.count(101) <= 10 * (seconds + 1)
        assert answers.count(429) == 60 - answers.count(101)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_that_is_not_valid_yet(bridge: BridgeProcess, claim: str) -> None:
    """By less than a day it is a clock's fault and not the client's: 1013, in the log, and no
    failed handshake.
    """
    ahead = int(time.time()) + 3600
    async with Clients(bridge.url) as clients:
        for way in ("header", "message"):
            client = await clients.connect(mint(new_user(), **{claim: ahead}), way)
            await client.expect_close(codes.TRY_AGAIN_LATER)
    told = re.compile("the clock of this machine")
    await asyncio.to_thread(bridge.wait_for_line, told, 10)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"sub": "x" * 129}, "over 128 bytes"),
        ({"active": 1}, "active"),
        ({"grants": {"subscribe": {"allow": [f"review.*.{n}" for n in range(257)]}}}, "over 256"),
        ({"name": "x" * 8192}, "over 8 KiB"),
        ({"exp": None}, "no exp"),
    ],
)
async def test_a_refusal_says_why(
    bridge: BridgeProcess, claims: dict[str, Any], words: str
) -> None:
    """Before 4500 comes ``TOKEN_INVALID`` with the reason, without the token or a claim's value."""
    token = mint(new_user(), **claims)
    async with Clients(bridge.url) as clients:
        for way in ("subprotocol", "message"):
            client = await clients.connect(token, way)
            error = await client.expect_error("TOKEN_INVALID")
            assert words in error["data"]["message"]
            assert "xxxx" not in error["data"]["message"]
            assert await client.closed() == (codes.INVALID_TOKEN.code, codes.INVALID_TOKEN.name)


async def test_failing_by_message_counts(start_bridge: StartBridge) -> None:
    """A bad ``authenticate`` is a failed handshake like the others."""
    bridge = start_bridge(BRIDGE_FAILED_HANDSHAKES="2")
    async with Clients(bridge.url) as clients:
        for _ in range(2):
            client = await clients.connect("garbage", "message")
            await client.expect_close(codes.INVALID_TOKEN)
        refusal = await clients.rejected("/ws")
        assert refusal.status_code == 429


async def test_addresses_behind_a_proxy(start_bridge: StartBridge) -> None:
    """Behind a trusted proxy each client's own address is counted."""
    bridge = start_bridge(
        BRIDGE_FAILED_HANDSHAKES="2", BRIDGE_TRUSTED_PROXIES="127.0.0.0/8, 10.0.0.0/8"
    )
    async with Clients(bridge.url) as clients:
        guilty = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7, 10.1.2.3"}
        for _ in range(2):
            client = await clients.open("/ws/garbage", headers=guilty)
            await client.expect_close(codes.INVALID_TOKEN)
        assert (await clients.rejected("/ws/garbage", headers=guilty)).status_code == 429
        claims_more = {"X-Forwarded-For": "198.51.100.2, 203.0.113.7"}
        assert (await clients.rejected("/ws/garbage", headers=claims_more)).status_code == 429
        innocent = {"X-Forwarded-For": "203.0.113.8"}
        client = await clients.open(f"/ws/{mint(new_user())}", headers=innocent)
        await client.expect("connection.established")


async def test_forwarded_for_of_strangers(start_bridge: StartBridge) -> None:
    """Without a trusted proxy ``X-Forwarded-For`` hides nobody."""
    bridge = start_bridge(BRIDGE_FAILED_HANDSHAKES="2")
    async with Clients(bridge.url) as clients:
        for number in range(2):
            headers = {"X-Forwarded-For": f"203.0.113.{number}"}
            client = await clients.open("/ws/garbage", headers=headers)
            await client.expect_close(codes.INVALID_TOKEN)
        refusal = await clients.rejected("/ws/garbage", headers={"X-Forwarded-For": "203.0.113.9"})
        assert refusal.status_code == 429
