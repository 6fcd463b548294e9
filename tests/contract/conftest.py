"""Fixtures of the contract tests: a bridge to talk to."""

from tests.support.bridge import bridge, bridge_settings, start_bridge
from tests.support.rights import deployed

__all__ = ["bridge", "bridge_settings", "deployed", "start_bridge"]
