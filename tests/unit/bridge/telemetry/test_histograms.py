"""Durations by bucket."""

from __future__ import annotations

import pytest

from natsbridge.bridge.telemetry.histograms import BOUNDS, Histogram


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.00025, 0), (0.0003, 1), (10.0, len(BOUNDS) - 1)]
)
def test_a_bound_is_within_its_bucket(seconds: float, bucket: int) -> None:
    """``le`` is less or equal."""
    histogram = Histogram()
    histogram.add(seconds, 3)
    assert histogram.counts[bucket] == 3
    assert (histogram.count, histogram.sum) == (3, 3 * seconds)


def test_what_is_over_all_bounds_is_counted_too() -> None:
    """In the last bucket."""
    histogram = Histogram()
    histogram.add(11.0)
    assert histogram.counts[-1] == histogram.count == 1


def test_the_last_trace_of_a_bucket_is_kept() -> None:
    """One each, and what has none changes nothing."""
    histogram = Histogram(wall=lambda: 5.0)
    histogram.add(0.001, trace=("a", "s"))
    histogram.add(0.0008, trace=("b", "s"))
    histogram.add(0.0009)
    histogram.add(1.0, trace=("c", "s"))
    assert list(histogram.exemplars.values()) == [(("b", "s"), 0.0008, 5.0), (("c", "s"), 1.0, 5.0)]
