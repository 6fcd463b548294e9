"""Fixtures that every test may use: the event loop, and real NATS servers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.nats_server import ContainerNats, EmbeddedNats, NatsServer

StartNats = Callable[..., NatsServer]
"""``start_nats(jetstream=True, arguments=())``: start a server of the back-end that was chosen."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nats",
        choices=("embedded", "container"),
        default="embedded",
        help="what tests talk to: the nats-server binary (default), or a container",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts this in the background leaves SIGINT ignored, and so would all processes
    # that tests start and stop with it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run async tests on asyncio, which is what the code is written for."""
    return "asyncio"


@pytest.fixture(scope="session")
def start_nats(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> StartNats:
    """Start a server; whoever calls this closes it. Most tests want one of the fixtures below."""

    def start(*, jetstream: bool = True, arguments: tuple[str, ...] = ()) -> NatsServer:
        server: NatsServer
        if request.config.getoption("--nats") == "container":
            server = ContainerNats(jetstream=jetstream, arguments=arguments)
        else:
            folder = tmp_path_factory.mktemp("nats")
            server = EmbeddedNats(folder, jetstream=jetstream, arguments=arguments)
        try:
            server.start()
        except BaseException:
            server.close()
            raise
        return server

    return start


@pytest.fixture(scope="session")
def nats_server(start_nats: StartNats) -> Iterator[NatsServer]:
    """One server with JetStream for the whole run: tests share it and must not stop it."""
    server = start_nats()
    yield server
    server.close()


@pytest.fixture
def own_nats_server(start_nats: StartNats) -> Iterator[NatsServer]:
    """A server with JetStream for one test, which may stop, freeze and start it again."""
    server = start_nats()
    yield server
    server.close()


@pytest.fixture
def plain_nats_server(start_nats: StartNats) -> Iterator[NatsServer]:
    """A server without JetStream for one test."""
    server = start_nats(jetstream=False)
    yield server
    server.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three servers with JetStream that know each other, for one test."""
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
