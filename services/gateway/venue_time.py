"""The venue's time, told by its own stamps: market deadlines run on it. Pure; machine time is an argument."""

from __future__ import annotations


class VenueTime:
    """Follows the newest stamp. `speed` is how fast the venue's time runs; 0: only with its stamps."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._stamp_ms = 0
        self._stamped_s = 0.0

    def stamp(self, at_ms: int, monotonic_s: float) -> None:
        """Take a stamp of the venue; an older one than the newest changes nothing."""
        if at_ms > self._stamp_ms:
            self._stamp_ms, self._stamped_s = at_ms, monotonic_s

    def now_ms(self, monotonic_s: float) -> int:
        """Return the venue's time in ms; 0 before the first stamp."""
        elapsed_ms = (monotonic_s - self._stamped_s) * 1000 * self.speed if self._stamp_ms else 0
        return self._stamp_ms + int(elapsed_ms)

    def real_s(self, venue_s: float) -> float:
        """Return how long the machine waits for so much venue time; unchanged where that stands still."""
        return venue_s / self.speed if self.speed else venue_s
