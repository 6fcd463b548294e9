"""A bridge whose clock is wrong, beside a NATS whose clock is right."""

from __future__ import annotations

import re
import time
from pathlib import Path

from natsbridge.schemas.codes import TOKEN_EXPIRED, TRY_AGAIN_LATER
from tests.support.bridge import StartBridge, start_bridge
from tests.support.clients import Clients, http, mint, new_user

__all__ = ["start_bridge"]


def wrong_by(folder: Path, seconds: int) -> str:
    """Return a PYTHONPATH that moves the wall clock of a process."""
    (folder / "sitecustomize.py").write_text(
        f"import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"
    )
    return str(folder)


async def test_a_clock_that_is_behind(start_bridge: StartBridge, tmp_path: Path) -> None:
    """Fresh tokens are told to come back, which is no failure of theirs; log, ``/readyz`` (200) and
    metrics say what is wrong; tokens without ``iat`` are as good as ever.
    """
    bridge = start_bridge(PYTHONPATH=wrong_by(tmp_path, -3600), BRIDGE_FAILED_HANDSHAKES="3")
    async with Clients(bridge.url) as clients:
        for _ in range(5):
            client = await clients.connect(mint(new_user(), iat=int(time.time())), "header")
            await client.expect_close(TRY_AGAIN_LATER)
        await clients.join()
    bridge.wait_for_line(re.compile("clock is behind NATS by 36[0-9][0-9] s"), 10)
    bridge.wait_for_line(re.compile("token is valid in 3[56][0-9][0-9] s only"), 10)
    async with http(bridge.url, mint("admin", role="admin")) as api:
        answer = await api.get("/readyz")
        assert answer.status_code == 200
        assert re.fullmatch(r"behind NATS by 36\d\d s", answer.json()["checks"]["clock"])
        metrics = (await api.get("/metrics")).text
        fresh = mint("admin", iat=int(time.time()))
        early = await api.post("/ws/tickets", headers={"Authorization": f"Bearer {fresh}"})
        assert early.status_code == 503
    found = re.search(r"^bridge_clock_behind_seconds ([\d.]+)", metrics, re.M)
    assert found is not None
    assert 3590 < float(found[1]) < 3610


async def test_a_clock_that_is_ahead(start_bridge: StartBridge, tmp_path: Path) -> None:
    """A token that counts as expired is 4001, and the log says why all of them do."""
    bridge = start_bridge(PYTHONPATH=wrong_by(tmp_path, 3600))
    async with Clients(bridge.url) as clients:
        client = await clients.connect(mint(new_user()), "header")
        await client.expect_close(TOKEN_EXPIRED)
    bridge.wait_for_line(re.compile("clock is ahead of NATS by 36[0-9][0-9] s"), 10)


async def test_a_clock_that_is_right(start_bridge: StartBridge) -> None:
    """Nothing is said of it."""
    bridge = start_bridge()
    async with http(bridge.url) as api:
        assert (await api.get("/readyz")).json()["checks"]["clock"] == "ok"
    assert "clock" not in bridge.output
