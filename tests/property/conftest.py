"""Property tests draw the same examples in every run, and are not timed: machines differ."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("suite", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("suite")
