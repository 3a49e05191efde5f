"""Percentiles of what took how long."""

from __future__ import annotations

from shared.samples import KEPT, Samples


def test_percentiles_are_nearest_rank() -> None:
    """One of a hundred is slow: the 99th does not show it, the maximum does."""
    samples = Samples()
    for _ in range(99):
        samples.add(0.002)
    samples.add(0.5)
    assert [samples.percentile_ms(share) for share in (0.5, 0.99, 1.0)] == [2.0, 2.0, 500.0]


def test_old_samples_are_forgotten() -> None:
    """A slow start is not held against a service for ever."""
    samples = Samples()
    samples.add(9.0)
    assert samples.percentile_ms(1.0) == 9000.0
    for _ in range(KEPT):
        samples.add(0.001)
    assert samples.percentile_ms(1.0) == 1.0


def test_nothing_has_no_percentile() -> None:
    """No number is better than a zero that was not measured."""
    assert Samples().percentile_ms(0.5) is None
