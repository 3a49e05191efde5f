"""Every clock that the gateway's orders and slices read, and every wait they make.

Market deadlines run on the venue's time, waits for an answer on the machine's. A simulation hands in a
clock of its own, and both run in its time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime

from services.gateway.venue_time import VenueTime
from shared.clock import Clock
from shared.streams import milliseconds

ROUND_TRIPS = 20  # of which the quickest counts


class Timing:
    """The venue's time and the machine's. `speed` is how fast the venue's runs; 0: only with its stamps."""

    def __init__(self, speed: float, clock: Clock) -> None:
        self._venue = VenueTime(speed)
        self._clock = clock
        self.monotonic_s = clock.monotonic_s  # the machine's monotonic seconds
        self._is_restarting = False
        self._round_trips_s: deque[float] = deque(maxlen=ROUND_TRIPS)

    @property
    def speed(self) -> float:
        """How many seconds of the venue pass in one of the machine."""
        return self._venue.speed

    def stamp(self, at_ms: int, at_s: float | None = None) -> None:
        """Take a stamp of the venue that has just come in: at `at_s`, where that is known already."""
        if self._is_restarting:
            self._venue, self._is_restarting = VenueTime(self._venue.speed), False
        self._venue.stamp(at_ms, self.monotonic_s() if at_s is None else at_s)

    def now_ms(self, at_s: float | None = None) -> int:
        """Return the venue's time in ms, at `at_s` if it is given; 0 before its first stamp."""
        return self._venue.now_ms(self.monotonic_s() if at_s is None else at_s)

    def restart(self) -> None:
        """Believe the next stamp alone: a new session may be with a venue that had been stopped."""
        self._is_restarting = True

    def quote_delay_ms(self) -> float:
        """Return how late quotes come beyond the quickest, in ms of the venue's time."""
        delay_s = self._venue.quote_delay_s(self.monotonic_s())
        return delay_s * 1000 * self._venue.speed

    def note_round_trip(self, seconds: float) -> None:
        """Take how long a question to the venue took."""
        self._round_trips_s.append(seconds)

    def clock_offset_ms(self) -> float:
        """Return the machine's clock minus the venue's; 0 where the venue's time is not the world's.

        A stamp is as old as its way to us is long: half of the quickest round trip, as NTP counts it.
        """
        if self._venue.speed != 1 or not self.now_ms():
            return 0.0
        way_ms = min(self._round_trips_s, default=0.0) * 1000 / 2
        return milliseconds(self._clock.now()) - self.now_ms() - way_ms

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
