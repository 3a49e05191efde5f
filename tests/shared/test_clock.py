"""The clocks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from shared.clock import Clock, ManualClock, SystemClock, monotonic_s, utc_now
from shared.errors import InputError

START = datetime(2025, 3, 9, 6, 59, tzinfo=UTC)


def test_wall_time_is_aware_and_utc_whatever_the_machines_zone() -> None:
    """A naive or local time in one place shifts every bar by hours."""
    assert utc_now().tzinfo is UTC
    assert SystemClock().now().tzinfo is UTC


def test_monotonic_time_never_runs_backwards() -> None:
    """Time-outs and leases rest on it."""
    times = [monotonic_s() for _ in range(100)]
    assert times == sorted(times)


async def test_system_clock_waits_at_least_as_long_as_asked() -> None:
    """A wait that ends early turns a time-out into a race."""
    clock: Clock = SystemClock()
    before = clock.monotonic_s()
    await clock.sleep(0.02)
    assert clock.monotonic_s() - before >= 0.019


def test_manual_clock_moves_only_when_told() -> None:
    """A test that waits for real time is slow or flaky, mostly both."""
    clock = ManualClock(START)
    assert (clock.now(), clock.monotonic_s()) == (START, 0.0)
    clock.advance(1.5)
    assert (clock.now(), clock.monotonic_s()) == (START + timedelta(seconds=1.5), 1.5)


def test_stepped_wall_clock_does_not_touch_monotonic_time() -> None:
    """That is the difference between the two, and what tests of leases need."""
    clock = ManualClock(START)
    clock.step_wall(-3600)
    assert clock.now() == START - timedelta(hours=1)
    assert clock.monotonic_s() == 0.0


def test_manual_clock_refuses_naive_starts_and_going_back() -> None:
    """A fake that allows what cannot happen proves nothing."""
    with pytest.raises(InputError):
        ManualClock(datetime(2025, 1, 1))  # noqa: DTZ001 - the point of the test
    with pytest.raises(InputError):
        ManualClock(START).advance(-1)


def test_manual_clock_tells_utc_whatever_zone_it_was_started_in() -> None:
    """Times are compared as text in places; they must look alike."""
    clock = ManualClock(START.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert clock.now().isoformat() == START.isoformat()


async def test_sleepers_wake_in_order_when_their_time_has_come() -> None:
    """Simulations rest on the same order each time."""
    clock, woken = ManualClock(START), []

    async def sleeper(name: str, delay_s: float) -> None:
        await clock.sleep(delay_s)
        woken.append(name)

    async with asyncio.TaskGroup() as group:
        for name, delay_s in (("late", 3.0), ("first", 1.0), ("second", 1.0), ("now", 0.0)):
            group.create_task(sleeper(name, delay_s))
        cancelled = group.create_task(sleeper("cancelled", 1.0))
        await asyncio.sleep(0.001)
        cancelled.cancel()
        assert woken == ["now"]
        clock.advance(1.0)
        await asyncio.sleep(0.001)
        assert woken == ["now", "first", "second"]
        clock.advance(5.0)
    assert woken == ["now", "first", "second", "late"]
