"""Which part may import which, read from the source of every file.

Names of our own modules stand here without ``natsbridge.``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "publishers", "bridge")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OWN = "natsbridge."

IO = frozenset(
    {
        "asyncio", "concurrent", "fastapi", "fcntl", "http", "httptools", "multiprocessing",
        "nats", "os", "pathlib", "queue", "requests", "select", "selectors", "signal", "socket",
        "socketserver", "ssl", "starlette", "subprocess", "tempfile", "threading", "urllib",
        "uvicorn", "uvloop", "websockets",
    }
)  # fmt: skip
"""Modules that read, write, wait, or run something beside."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[2:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules that a file imports anywhere in it, as full names.

    ``from a import b`` counts as ``a`` and as ``a.b``. Imports for type checkers only count too.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name.removeprefix(OWN) for name in found)


def reaches(path: Path, *packages: str) -> set[str]:
    """What a file imports of these packages or modules."""
    return {
        name
        for name in imports(path)
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    }


def under(*places: str) -> list[Path]:
    """The files of these packages and modules."""
    chosen = []
    for place in places:
        path = ROOT / place.split(".")[0] / "natsbridge" / place.replace(".", "/")
        found = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        assert found, place
        chosen += found
    return chosen


def ids(path: Path) -> str:
    return module_name(path)


def test_every_package_is_read() -> None:
    """The rules below are about files that exist."""
    assert all(path.is_file() for path in FILES)
    assert {module_name(path).split(".")[0] for path in FILES} == set(PACKAGES)


@pytest.mark.parametrize("path", under("schemas"), ids=ids)
def test_schemas_know_pydantic_only(path: Path) -> None:
    """What crosses the wire needs the standard library and pydantic."""
    allowed = {*sys.stdlib_module_names, "pydantic", "pydantic_core", "schemas"}
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", under("schemas"), ids=ids)
def test_schemas_do_no_io(path: Path) -> None:
    """No connection, thread or loop; random bytes, and what the settings of NATS need, aside."""
    allowed = {
        "schemas.envelope": {"os"},  # urandom
        # Settings name files, make a TLS context of them, and set one option of a socket.
        "schemas.bus": {"pathlib", "socket", "ssl"},
    }.get(module_name(path), set())
    assert {name.split(".")[0] for name in imports(path)} & IO <= allowed


@pytest.mark.parametrize("path", under("publishers"), ids=ids)
def test_publishers_never_import_the_bridge(path: Path) -> None:
    """A service installs schemas and publishers, and nothing of the bridge."""
    assert not reaches(path, "bridge")


@pytest.mark.parametrize("path", under("publishers"), ids=ids)
def test_publishers_need_the_base_install_only(path: Path) -> None:
    """The standard library, pydantic, nats-py, the OpenTelemetry API."""
    allowed = {
        *sys.stdlib_module_names,
        "nats", "opentelemetry", "publishers", "pydantic", "pydantic_core", "schemas",
    }  # fmt: skip
    assert {name.split(".")[0] for name in imports(path)} <= allowed


@pytest.mark.parametrize("path", under("bridge"), ids=ids)
def test_the_bridge_never_imports_publishers(path: Path) -> None:
    """The bridge lives on the contract, not on the SDK."""
    assert not reaches(path, "publishers")


PURE = [
    path
    for path in under(
        "bridge.delivery",
        "bridge.limits",
        "bridge.identity",
        "bridge.sessions.handlers",
        "bridge.replay.positions",
        "bridge.sessions.states",
        "bridge.sessions.registry",
    )
    # Fetching a JWKS takes a thread; the rest of identity does not.
    if module_name(path) not in ("bridge.identity.keys", "bridge.identity.fetching")
]


@pytest.mark.parametrize("path", PURE, ids=ids)
def test_pure_parts_import_no_io(path: Path) -> None:
    """Delivery, limits, identity and the decisions of a session neither wait nor reach out."""
    found = {name.split(".")[0] for name in imports(path)} & IO
    if module_name(path) == "bridge.identity.minting":
        found.discard("pathlib")  # `bridge token` names a private key by its file
    assert not found


@pytest.mark.parametrize("path", PURE, ids=ids)
def test_pure_parts_import_nothing_that_does(path: Path) -> None:
    """Nor by way of the bridge's own parts that do I/O."""
    found = reaches(
        path, "bridge.nats", "bridge.websocket", "bridge.http", "bridge.app", "bridge.sessions"
    )
    allowed = ("bridge.sessions.handlers", "bridge.sessions.states", "bridge.sessions.registry")
    if module_name(path) == "bridge.sessions.registry":
        allowed += ("bridge.sessions.session",)  # the type of what it holds, for type checkers
    assert {name for name in found if not name.startswith(allowed)} == set()


@pytest.mark.parametrize("path", under("bridge.identity.keys", "bridge.identity.fetching"), ids=ids)
def test_keys_reach_out_in_one_way(path: Path) -> None:
    """Fetching keys is a thread with urllib, and a loop that waits for it."""
    found = {name.split(".")[0] for name in imports(path)} & IO
    assert found <= {"asyncio", "http", "pathlib", "socket", "threading", "urllib"}
    assert not reaches(path, "bridge.nats", "bridge.websocket", "bridge.http", "bridge.sessions")


@pytest.mark.parametrize(
    ("part", "others"),
    [
        ("bridge.nats", ("bridge.websocket", "bridge.sessions", "bridge.http", "bridge.delivery")),
        ("bridge.websocket", ("bridge.nats", "bridge.sessions", "bridge.http", "nats")),
        ("bridge.delivery", ("bridge.nats", "bridge.websocket", "bridge.sessions", "bridge.http")),
        ("bridge.identity", ("bridge.nats", "bridge.websocket", "bridge.sessions", "bridge.http")),
        ("bridge.limits", ("bridge",)),
        ("bridge.telemetry", ("bridge.nats", "bridge.websocket", "bridge.sessions", "bridge.http")),
        ("bridge.sessions", ("bridge.http", "nats", "uvicorn", "fastapi", "websockets")),
        ("bridge.settings", ("bridge.nats", "bridge.websocket", "bridge.sessions", "bridge.http")),
    ],
)
def test_parts_that_do_not_know_each_other(part: str, others: tuple[str, ...]) -> None:
    """The arrows between the parts of the bridge go one way."""
    told = {
        (module_name(path), name)
        for path in under(part)
        for name in reaches(path, *others)
        if not name.startswith(part)
    }
    assert told == set()


def test_only_the_composition_root_knows_everything() -> None:
    """No other file joins NATS, sockets and HTTP; the command line starts what app.py joins."""
    everything = ("bridge.nats.connection", "bridge.websocket", "bridge.http")
    joined = [
        module_name(path)
        for path in under("bridge")
        if all(reaches(path, part) for part in everything)
    ]
    assert joined == ["bridge.app"]
    importers = {
        module_name(path).rpartition(".")[0]
        for path in under("bridge")
        if reaches(path, "bridge.app")
    }
    assert importers <= {"bridge.runtime", "bridge.cli"}


def one_importer_of(*packages: str, within: str) -> set[str]:
    return {module_name(path) for path in under(within) if reaches(path, *packages)}


@pytest.mark.parametrize(
    ("package", "within", "allowed"),
    [
        ("nats", "bridge", ("bridge.nats", "bridge.cli", "bridge.app", "bridge.replay")),
        ("nats.protocol", "bridge", ("bridge.nats.ingest",)),
        ("nats", "publishers", ("publishers.client", "publishers.connection")),
        ("websockets", "bridge", ("bridge.websocket", "bridge.cli")),
        ("uvicorn", "bridge", ("bridge.http.protocol", "bridge.http.server")),
        ("fastapi", "bridge", ("bridge.http",)),
    ],
)
def test_a_library_has_one_home(package: str, within: str, allowed: tuple[str, ...]) -> None:
    """Each library is known in one place, so that another one could take its place there."""
    found = one_importer_of(package, within=within)
    assert {name for name in found if not name.startswith(allowed)} == set()


PRIVATE: dict[str, Callable[[ast.Attribute], bool]] = {
    "of nats-py": lambda node: (
        node.attr in ("_ps", "_pongs", "_transport", "_process_msg", "_resp_sub_prefix")
    ),
}


@pytest.mark.parametrize("what", PRIVATE)
def test_one_file_knows_the_internals(what: str) -> None:
    """Names that a new nats-py may change are used in ``broker/ingest.py`` alone."""
    users = set()
    for path in under("bridge.nats"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and PRIVATE[what](node)
                and not (isinstance(node.value, ast.Name) and node.value.id == "self")
            ):
                users.add(module_name(path))
    assert users == {"bridge.nats.ingest"}
