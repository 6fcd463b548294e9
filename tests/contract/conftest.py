"""Fixtures of the contract tests: a bridge to talk to."""

from tests.support.bridge import bridge, bridge_settings, start_bridge

__all__ = ["bridge", "bridge_settings", "start_bridge"]
