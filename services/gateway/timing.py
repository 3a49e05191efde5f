"""Every clock that the gateway's orders and slices read, and every wait they make.

Market deadlines run on the venue's time, waits for an answer on the machine's. A simulation hands in a
clock of its own, and both run in its time.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from services.gateway.venue_time import VenueTime
from shared.clock import Clock


class Timing:
    """The venue's time and the machine's. `speed` is how fast the venue's runs; 0: only with its stamps."""

    def __init__(self, speed: float, clock: Clock) -> None:
        self._venue = VenueTime(speed)
        self._clock = clock

    @property
    def speed(self) -> float:
        """How many seconds of the venue pass in one of the machine."""
        return self._venue.speed

    def stamp(self, at_ms: int) -> None:
        """Take a stamp of the venue that has just come in."""
        self._venue.stamp(at_ms, self._clock.monotonic_s())

    def now_ms(self) -> int:
        """Return the venue's time in ms; 0 before its first stamp."""
        return self._venue.now_ms(self._clock.monotonic_s())

    def monotonic_s(self) -> float:
        """Return the machine's monotonic seconds."""
        return self._clock.monotonic_s()

    def utc_now(self) -> datetime:
        """Return the machine's wall time."""
        return self._clock.now()

    async def sleep(self, seconds: float) -> None:
        """Wait, in the machine's seconds."""
        await self._clock.sleep(seconds)

    async def sleep_venue(self, seconds: float) -> None:
        """Wait, in the venue's seconds; in the machine's where the venue's time stands still."""
        await self._clock.sleep(self._venue.real_s(seconds))

    async def within(self, seconds: float, event: asyncio.Event) -> bool:
        """Return whether the event came in so many of the machine's seconds."""
        if event.is_set():
            return True
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(self._clock.sleep(seconds))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        return event.is_set()

    async def within_venue(self, seconds: float, event: asyncio.Event) -> bool:
        """Return whether the event came in so many of the venue's seconds."""
        return await self.within(self._venue.real_s(seconds), event)
