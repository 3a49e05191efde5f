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


def test_what_goes_is_the_oldest_of_equals() -> None:
    """Durations repeat: each that is too many takes one of its like away, no more and no less."""
    samples, took_s = Samples(), [(number * number % 37) / 1000 for number in range(3 * KEPT + 7)]
    for each in took_s:
        samples.add(each)
    kept = sorted(took_s[-KEPT:])
    for share in (0.01, 0.25, 0.5, 0.75, 0.99, 1.0):
        expected = round(1000 * kept[round(share * KEPT) - 1], 3)
        assert samples.percentile_ms(share) == expected


def test_nothing_has_no_percentile() -> None:
    """No number is better than a zero that was not measured."""
    assert Samples().percentile_ms(0.5) is None
