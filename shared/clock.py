"""The one home of the wall clock and the monotonic clock; everything else is handed one, or asks here.

A simulation puts its own clock in the machine's place (`running_on`), so that the very code that runs live
runs on virtual time.

Wall time says when something happened; only monotonic time says how long it took, because the wall
clock may be stepped. The venue's time is neither: it comes with the venue's own stamps.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

from shared.errors import InputError


class Clock(Protocol):
    """What measures time and waits."""

    def now(self) -> datetime:
        """Return the wall time, aware, UTC."""

    def monotonic_s(self) -> float:
        """Return monotonic seconds."""

    async def sleep(self, delay_s: float) -> None:
        """Wait that long, on the monotonic clock."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """Return the machine's wall time, aware, UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Wait that long."""
        await asyncio.sleep(delay_s)


_clock: Clock = SystemClock()


def utc_now() -> datetime:
    """Return the wall time, aware, UTC."""
    return _clock.now()


def monotonic_s() -> float:
    """Return seconds since some fixed moment; they never run backwards."""
    return _clock.monotonic_s()


@contextmanager
def running_on(clock: Clock) -> Iterator[None]:
    """Let everything in this process run on another clock for the length of the block."""
    global _clock
    before, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = before


class ManualClock:
    """A clock that moves only when it is told to: for tests and simulations."""

    def __init__(self, start: datetime = datetime(2025, 1, 6, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise InputError(f"clock start {start.isoformat()}: give it a time zone")
        self._now = start.astimezone(UTC)
        self._monotonic_s = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []  # heap: due, order of arrival

    def now(self) -> datetime:
        """Return the wall time that was set."""
        return self._now

    def monotonic_s(self) -> float:
        """Return the seconds this clock was advanced by."""
        return self._monotonic_s

    async def sleep(self, delay_s: float) -> None:
        """Wait until the clock was advanced by that much."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic_s + delay_s, next(self._order), woken))
        await woken

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks, and wake whoever is due, in order."""
        if seconds < 0:
            raise InputError(f"advance({seconds}): time does not run backwards; use step_wall")
        self._now += timedelta(seconds=seconds)
        self._monotonic_s += seconds
        while self._sleepers and self._sleepers[0][0] <= self._monotonic_s:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():  # a cancelled sleeper
                woken.set_result(None)

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock alone, as an operator or NTP does; no time passes."""
        self._now += timedelta(seconds=seconds)
