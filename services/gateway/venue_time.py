"""The venue's time, told by its own stamps: market deadlines run on it. Pure; machine time is an argument.

A stamp that took longer to us says less than one that came quickly: the quickest of the last minute tells
the time, and how far the others lag behind it is the delay of quotes. So what is told here is the venue's
time less the shortest way from it to us, which no stamp can show.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0  # how long the quickest stamp tells the time; the two clocks may drift apart
DELAY_MAX_S = 1.0  # a stamp further behind is the old price that follows a subscription, not a late quote
DELAY_HALF_LIFE_S = 10.0  # of a quote's delay: one hiccup is forgotten soon


class VenueTime:
    """Follows the stamps. `speed` is how fast the venue's time runs; 0: only with its stamps."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._leads: deque[tuple[float, float]] = deque()  # came at (s), ahead of us by (ms); falling leads
        self._newest_ms = 0
        self._delay_s = 0.0
        self._delayed_at_s = 0.0

    def stamp(self, at_ms: int, monotonic_s: float) -> None:
        """Take a stamp of the venue that came in at a moment of the machine."""
        if at_ms > self._newest_ms:
            self._newest_ms = at_ms
        if not self.speed:
            return
        lead_ms = at_ms - monotonic_s * 1000 * self.speed
        while self._leads and self._leads[-1][1] <= lead_ms:
            self._leads.pop()
        self._leads.append((monotonic_s, lead_ms))
        while self._leads[0][0] < monotonic_s - WINDOW_S:
            self._leads.popleft()
        self._note_delay((self._leads[0][1] - lead_ms) / 1000 / self.speed, monotonic_s)

    def _note_delay(self, delay_s: float, monotonic_s: float) -> None:
        if delay_s <= DELAY_MAX_S and delay_s >= self.quote_delay_s(monotonic_s):
            self._delay_s, self._delayed_at_s = delay_s, monotonic_s

    def quote_delay_s(self, monotonic_s: float) -> float:
        """Return how late quotes have come of late, beyond the quickest, in the machine's seconds."""
        age_s = monotonic_s - self._delayed_at_s
        return float(self._delay_s * 0.5 ** (age_s / DELAY_HALF_LIFE_S))

    def now_ms(self, monotonic_s: float) -> int:
        """Return the venue's time in ms; 0 before the first stamp."""
        if not self._leads:
            return self._newest_ms
        return round(self._leads[0][1] + monotonic_s * 1000 * self.speed)

    def real_s(self, venue_s: float) -> float:
        """Return how long the machine waits for so much venue time; unchanged where that stands still."""
        return venue_s / self.speed if self.speed else venue_s
