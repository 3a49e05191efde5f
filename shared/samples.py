"""The newest durations of something that is done again and again, and their percentiles. Pure."""

from __future__ import annotations

import math
from collections import deque

KEPT = 1_000


class Samples:
    """The last thousand durations, in seconds."""

    def __init__(self) -> None:
        self._kept_s: deque[float] = deque(maxlen=KEPT)
        self._ordered_s: list[float] = []  # the same, once they are asked for

    def add(self, took_s: float) -> None:
        """Take one more; the oldest goes."""
        self._kept_s.append(took_s)
        self._ordered_s = []

    def percentile_ms(self, share: float) -> float | None:
        """Return the nearest-rank percentile in milliseconds; None while there is nothing."""
        if not self._kept_s:
            return None
        if not self._ordered_s:
            self._ordered_s = sorted(self._kept_s)
        return round(1000 * self._ordered_s[math.ceil(share * len(self._ordered_s)) - 1], 3)
