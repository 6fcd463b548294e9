"""Fixtures of tests in which time passes by itself, without taking any."""

from tests.support.living import anyio_backend, living

__all__ = ["anyio_backend", "living"]
