"""The map of the code: each file that it names exists, and each module of the bridge is on it."""

from __future__ import annotations

import re
from typing import Final

from natsbridge.bridge.sessions.states import TRANSITIONS
from tests.support.bridge import ROOT
from tests.support.pages import DOCS

PAGE: Final = (DOCS / "architecture.md").read_text()
BRIDGE: Final = ROOT / "bridge/natsbridge/bridge"
PLACES: Final = (ROOT, BRIDGE, ROOT / "publishers/natsbridge/publishers")
MAP: Final = PAGE.partition("<!-- map -->")[2].partition("<!-- /map -->")[0]


def test_each_file_that_is_named_exists() -> None:
    """A path is the repository's, the bridge's or the SDK's; a folder ends in ``/`` or is whole."""
    named = set(re.findall(r"`((?:\w+/)*\w+\.py|\w+(?:/\w+)+/?|\w+/)`", PAGE))
    assert len(named) > 100
    missing = {name for name in named if not any((place / name).exists() for place in PLACES)}
    assert not missing


def test_each_module_of_the_bridge_is_on_the_map() -> None:
    """Whoever adds a module gives it a row in docs/architecture.md; packages have their heading."""
    modules = {
        str(path.relative_to(BRIDGE))
        for path in BRIDGE.rglob("*.py")
        if path.name != "__init__.py" and path.stat().st_size
    }
    on_the_map = set(re.findall(r"`([\w/]+\.py)`", MAP))
    assert modules - on_the_map == set(), "docs/architecture.md lacks these"
    assert on_the_map - modules == set(), "docs/architecture.md has rows for what is gone"
    packages = {path.parent.relative_to(BRIDGE).name for path in BRIDGE.glob("*/__init__.py")}
    assert packages <= set(re.findall(r"^\| `(\w+)/` \|", MAP, re.M))


def test_the_states_of_a_session_are_the_codes() -> None:
    """The table has each state, and where it goes on to."""
    section = PAGE.partition("**A session**")[2].partition("\n\n**")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", section, re.M)
    told = {name: set(re.findall(r"\w+", then.replace("–", ""))) for name, then in rows}
    assert told == {state.name: {each.name for each in then} for state, then in TRANSITIONS.items()}
